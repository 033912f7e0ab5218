// The feature dashboard: search, sort and walk through features; one is in the page at a time.

const LIST_LIMIT = 300;
let activeDashboard = null;

views.features = (section, mount, data) => new Dashboard(section, mount, data);

class Dashboard {
  constructor(section, mount, data) {
    this.key = section.dataset.name;
    this.data = data;
    this.features = data.features.map((feature, index) => describe(feature, index, data));
    this.byId = new Map(this.features.map((feature) => [feature.id, feature]));
    this.matches = this.features;
    this.build(section, mount);
    section.addEventListener('pointerdown', () => (activeDashboard = this));
    section.addEventListener('focusin', () => (activeDashboard = this));
    activeDashboard ??= this;
    addEventListener('hashchange', () => this.follow());
    this.search();
    this.follow();
  }

  build(section, mount) {
    const { noun, tokensScanned, dead, features } = this.data;
    const level = Number(section.querySelector('h1, h2, h3').tagName[1]);
    this.heading = (depth, properties, text) => element(`h${level + depth}`, properties, text);
    this.input = element('input', {
      type: 'search',
      placeholder: 'id, token, label, or density<0.01',
      'aria-label': `Search ${noun}s by id, token, label, or metric such as density<0.01`,
      oninput: () => this.search(),
      onkeydown: (event) => event.key === 'Escape' && event.target.blur(),
    });
    const sorts = ['id', ...Object.keys(this.features[0].numbers)];
    this.select = element('select', { onchange: () => this.search() }, ...sorts.map((name) => element('option', { value: name }, name)));
    this.back = element('button', { type: 'button', onclick: () => this.step(-1) }, '‹ Previous');
    this.next = element('button', { type: 'button', onclick: () => this.step(1) }, 'Next ›');
    this.status = element('p', { class: 'status', role: 'status' });
    this.list = element('ol', { class: 'list', 'aria-label': `${noun}s found`, tabindex: 0 });
    this.detail = element('div', { class: 'detail', tabindex: -1 });
    const scanned = `${features.length.toLocaleString('en')} ${noun}s shown · ${tokensScanned.toLocaleString('en')} tokens scanned · ${dead.toLocaleString('en')} dead`;
    mount.append(
      element('p', { class: 'status' }, `${scanned} · keys `, element('kbd', {}, 'j'), ' ', element('kbd', {}, 'k'), ' next, previous, ', element('kbd', {}, '/'), ' search'),
      element('div', { class: 'bar' }, element('div', { class: 'search' }, this.input), element('label', {}, 'Sort ', this.select), this.back, this.next),
      this.status,
      element('div', { class: 'browser' }, this.list, this.detail)
    );
  }

  search() {
    const tests = this.input.value.toLowerCase().split(/\s+/).filter(Boolean).map(termTest);
    const by = this.select.value;
    this.matches = this.features.filter((feature) => tests.every((test) => test(feature)));
    if (by !== 'id') this.matches.sort((a, b) => (b.numbers[by] ?? -Infinity) - (a.numbers[by] ?? -Infinity) || a.id - b.id);
    else this.matches.sort((a, b) => a.id - b.id);
    this.fillList();
    if (!this.matches.includes(this.current) && this.matches.length) this.show(this.matches[0], false);
    this.mark();
  }

  fillList() {
    const by = this.select.value === 'id' ? 'density' : this.select.value;
    const rows = this.matches.slice(0, LIST_LIMIT).map((feature) => {
      const value = feature.numbers[by];
      const parts = [['id', feature.id], ['about', feature.about], ['figure', value === undefined ? '–' : shown(value)]];
      const spans = parts.map(([name, text]) => element('span', { class: name }, String(text)));
      feature.button = element('button', { type: 'button', class: 'pick', title: feature.about, onclick: () => this.show(feature, true) }, ...spans);
      return element('li', {}, feature.button);
    });
    this.list.replaceChildren(...rows);
    const hidden = this.matches.length - rows.length;
    if (hidden > 0) this.list.append(element('li', { class: 'muted' }, `${hidden} more: search to narrow the list`));
  }

  mark() {
    const place = this.matches.indexOf(this.current);
    const found = this.matches.length === this.features.length ? '' : ` found of ${this.features.length}`;
    this.status.textContent = this.matches.length ? `${place + 1} of ${this.matches.length}${found}` : `No ${this.data.noun} matches “${this.input.value}”.`;
    this.back.disabled = place <= 0;
    this.next.disabled = place < 0 || place >= this.matches.length - 1;
    this.list.querySelector('[aria-current]')?.removeAttribute('aria-current');
    const button = this.current?.button;
    if (!button?.isConnected) return;
    button.setAttribute('aria-current', 'true');
    const offset = button.offsetTop - this.list.offsetTop;
    if (offset < this.list.scrollTop || offset > this.list.scrollTop + this.list.clientHeight - 30) this.list.scrollTop = offset - this.list.clientHeight / 2;
  }

  step(by) {
    const next = this.matches[this.matches.indexOf(this.current) + by];
    if (next) this.show(next, true);
  }

  show(feature, link) {
    this.current = feature;
    if (!this.matches.includes(feature)) {
      this.input.value = '';
      this.search();
    }
    this.detail.replaceChildren(...featureDetail(this, feature));
    this.mark();
    if (link) permalink(`#${this.key}=${feature.id}`);
  }

  follow() {
    const match = new RegExp(`^#${this.key}=(\\d+)$`).exec(location.hash);
    const feature = match && this.byId.get(Number(match[1]));
    if (!feature) return;
    activeDashboard = this;
    this.show(feature, false);
    this.detail.closest('.view').scrollIntoView();
  }
}

document.addEventListener('keydown', (event) => {
  if (!activeDashboard || typing(event)) return;
  const action = { j: () => activeDashboard.step(1), k: () => activeDashboard.step(-1), '/': () => activeDashboard.input.focus() }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// What search and sort need to know of a feature.
function describe(feature, index, data) {
  const strongest = feature.labels.length ? { [data.labelScore]: feature.labels[0][1] } : {};
  const numbers = { density: feature.density, 'max activation': feature.high, ...strongest, ...feature.metrics };
  const peaks = examplesOf({ index, ...feature }, data).filter((example) => example.values[example.focus] > 0).map((example) => example.tokens[example.focus]);
  const written = [...feature.boosted, ...feature.suppressed].map(([token]) => data.vocabulary[token]);
  const labels = feature.labels.map(([label]) => label).join('\n').toLowerCase();
  const tokens = [...peaks, ...written].join('\n').toLowerCase();
  const about = feature.explanation ?? feature.labels[0]?.[0] ?? (peaks.length ? spaced(peaks[0]) : 'no activations');
  return { ...feature, index, numbers, about, searched: { label: labels, token: tokens, text: (feature.explanation ?? '').toLowerCase() } };
}

// One word of a search: 123 · #123 · density<0.01 · token:def · label:keyword · anything in labels, tokens or explanation.
function termTest(term) {
  if (/^#?\d+$/.test(term)) return (feature) => feature.id === Number(term.replace('#', ''));
  const metric = /^([^<>=]+)(<=|>=|<|>)(-?[\d.]+(?:e-?\d+)?)$/.exec(term);
  if (metric) {
    const [, name, sign, bound] = metric;
    const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
    return (feature) => {
      const names = Object.keys(feature.numbers);
      const key = names.find((other) => plain(other) === plain(name)) ?? names.find((other) => plain(other).includes(plain(name)));
      const value = feature.numbers[key];
      return key !== undefined && { '<': value < bound, '>': value > bound, '<=': value <= bound, '>=': value >= bound }[sign];
    };
  }
  const [, where, words] = /^(?:(token|label):)?(.+)$/.exec(term);
  if (where) return (feature) => feature.searched[where].includes(words);
  return (feature) => Object.values(feature.searched).some((text) => text.includes(words));
}

function examplesOf(feature, data) {
  const { featureStarts, tokenStarts, tokens, activations, documents, positions, groups, focuses } = data.arrays;
  const examples = [];
  for (let row = featureStarts[feature.index]; row < featureStarts[feature.index + 1]; row += 1) {
    const [start, stop] = [tokenStarts[row], tokenStarts[row + 1]];
    const values = Array.from(activations.subarray(start, stop), (step) => feature.low + (step / 255) * (feature.high - feature.low));
    const clean = values.map((value) => (Math.abs(value) < (feature.high - feature.low) / 510 ? 0 : value));
    examples.push({
      tokens: Array.from(tokens.subarray(start, stop), (token) => data.vocabulary[token]),
      values: clean,
      focus: focuses[row],
      peak: Math.max(0, ...clean),
      origin: data.documents[documents[row]],
      position: positions[row],
      group: data.groups[groups[row]],
    });
  }
  return examples;
}

function featureDetail(dashboard, feature) {
  const { data, heading } = dashboard;
  const numbers = Object.entries(feature.numbers).map(([name, value]) => element('div', {}, element('dt', {}, name), element('dd', {}, shown(value))));
  const token = ([index, value]) => ({ token: spaced(data.vocabulary[index]), value });
  const word = ([text, value]) => ({ text, value });
  const lists = [
    [`Labels, by ${data.labelScore}`, feature.labels.map(word)],
    ['Logits boosted', feature.boosted.map(token)],
    ['Logits suppressed', feature.suppressed.map(token)],
    ...Object.entries(feature.neighbours).map(([name, pairs]) => [`Nearest by ${name}`, pairs.map(([id, value]) => ({ id, value }))]),
    ['Decoder attribution', feature.attribution.map(word)],
  ].filter(([, rows]) => rows.length);
  const panels = lists.map(([title, rows]) => element('section', {}, heading(2, {}, title), valueList(rows, dashboard)));
  if (feature.histogram) panels.unshift(element('section', {}, heading(2, {}, 'Activations'), histogram(feature.histogram)));
  return [
    element('div', { class: 'detail-head' }, heading(1, { class: 'heading' }, `${data.noun[0].toUpperCase()}${data.noun.slice(1)} ${feature.id}`), element('a', { href: `#${dashboard.key}=${feature.id}`, class: 'claim-id' }, `#${dashboard.key}=${feature.id}`)),
    feature.explanation === null ? null : element('p', { class: 'explanation' }, feature.explanation),
    element('dl', { class: 'metrics' }, ...numbers),
    element('div', { class: 'panels' }, ...panels),
    ...exampleGroups(feature, dashboard),
  ].filter((node) => node !== null);
}

function valueList(rows, dashboard) {
  const reach = Math.max(...rows.map((row) => Math.abs(row.value))) || 1;
  const items = rows.map((row) => {
    const gauge = element('span', { class: row.value < 0 ? 'gauge negative' : 'gauge', 'aria-hidden': 'true' }, element('i'));
    gauge.style.setProperty('--share', Math.abs(row.value) / reach);
    return element('li', {}, rowName(row, dashboard), gauge, element('span', { class: 'size' }, shown(row.value)));
  });
  return element('ol', { class: 'rows' }, ...items);
}

function rowName(row, dashboard) {
  if (row.token !== undefined) return element('span', { class: 'what token', title: row.token }, row.token);
  if (row.text !== undefined) return element('span', { class: 'what', title: String(row.text) }, String(row.text));
  const other = dashboard.byId.get(row.id);
  const label = other ? `${row.id} ${other.about}` : String(row.id);
  if (!other) return element('span', { class: 'what', title: 'not in this dashboard' }, label);
  const go = () => {
    dashboard.show(other, true);
    dashboard.detail.focus();
  };
  return element('span', { class: 'what' }, element('button', { type: 'button', class: 'go', title: label, onclick: go }, label));
}

function histogram({ counts, edges }) {
  const [width, height, top] = [220, 84, Math.max(...counts, 1)];
  const picture = drawing('svg', { class: 'histogram', viewBox: `0 0 ${width} ${height + 16}`, role: 'img', 'aria-label': `Histogram of non-zero activations from ${shown(edges[0])} to ${shown(edges.at(-1))}; the fullest bin holds ${shown(top)}` });
  const step = width / counts.length;
  counts.forEach((count, index) => {
    const tall = count > 0 ? Math.max(1, (count / top) * (height - 4)) : 0;
    picture.append(drawing('rect', { x: (index * step).toFixed(2), y: (height - tall).toFixed(2), width: Math.max(0.5, step - 1).toFixed(2), height: tall.toFixed(2) }));
  });
  picture.append(drawing('line', { x1: 0, x2: width, y1: height, y2: height }));
  picture.append(drawing('text', { x: 0, y: height + 12 }, shown(edges[0])));
  picture.append(drawing('text', { x: width, y: height + 12, 'text-anchor': 'end' }, shown(edges.at(-1))));
  return picture;
}

// The activation an example was chosen for, and the largest in it where that is another token's.
function strength({ values, focus, peak }) {
  const here = values[focus] ?? 0;
  return here === peak ? `max ${shown(peak)}` : `here ${shown(here)} · max ${shown(peak)}`;
}

function exampleGroups(feature, dashboard) {
  const examples = examplesOf(feature, dashboard.data);
  const names = dashboard.data.groups.filter((name) => examples.some((example) => example.group === name));
  return names.map((name) => {
    const rows = examples.filter((example) => example.group === name).map((example) => {
      const origin = example.origin === '' ? '' : `${example.origin} · from token ${example.position.toLocaleString('en')}`;
      return element('div', { class: 'example' }, tintedText(example.tokens, example.values, feature.low, feature.high, example.focus), element('div', { class: 'origin' }, element('span', { class: 'document' }, origin), element('span', {}, strength(example))));
    });
    return element('section', { class: 'group' }, dashboard.heading(2, {}, name), ...rows);
  });
}
