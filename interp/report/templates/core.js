// What all views share: making elements (textContent only, never markup), reading payloads, numbers, and starting the views.

const views = {};

function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function drawing(name, attributes = {}, text = '') {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

function shown(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e4 && size < 1e9) return Math.round(value).toLocaleString('en').replace('-', '−');
  if (size < 1e-3 || size >= 1e9) return value.toExponential(1).replace('e-', 'e−').replace('e+', 'e').replace(/^-/, '−');
  return String(Number(value.toPrecision(3))).replace('-', '−');
}

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const spaced = (token) => token.replaceAll(' ', '␣');
const brief = (token) => (token.length > 24 ? `${spaced(token.slice(0, 24))}…` : spaced(token));

// Layout: interp/report/payload.py.
async function unpack(text) {
  const zipped = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream('gzip'));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const types = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };
  for (const [name, array] of Object.entries(data.arrays)) {
    data.arrays[name] = new types[array.type](buffer, 4 + length + array.offset, array.length);
  }
  return data;
}

// A payload from a file beside the page: the file is a script that hands it to the element that loads it.
function unpackFile(path) {
  return new Promise((resolve, reject) => {
    const loader = element('script', { src: path, onload: () => resolve(unpack(loader.payload)), onerror: () => reject(new Error(`${path} is missing`)) });
    document.head.append(loader);
  });
}

function permalink(hash) {
  try {
    history.replaceState(null, '', hash);
  } catch {
    // A notebook's frame has no address to change.
  }
}

function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
}

async function start(section) {
  const mount = section.querySelector('.mount');
  if (typeof DecompressionStream === 'undefined') return;
  const { payload } = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
  const data = await unpack(payload);
  mount.replaceChildren();
  views[section.dataset.view](section, mount, data);
  section.dataset.ready = 'true';
}

document.addEventListener('DOMContentLoaded', () => document.querySelectorAll('[data-view]').forEach(start));
