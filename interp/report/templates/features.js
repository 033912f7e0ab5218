// The feature dashboard: search, sort and walk through features; one is in the page at a time. The index is in the page; the rest
// of a feature comes with it, or from a file beside it when first looked at (interp/report/features.py).

const LIST_LIMIT = 300;
let activeDashboard = null;

views.features = (section, mount, data) => new Dashboard(section, mount, data);

class Dashboard {
  constructor(section, mount, data) {
    this.key = section.dataset.name;
    this.data = data;
    this.features = data.features.map((feature, index) => describe(feature, index, data));
    this.parts = new Map();
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
    const { noun, tokensScanned, dead, total, features } = this.data;
    const level = Number(section.querySelector('h1, h2, h3').tagName[1]);
    this.heading = (depth, properties, text) => element(`h${level + depth}`, properties, text);
    this.input = element('input', {
      type: 'search',
      placeholder: 'id, token, rule, label, or density<0.01',
      'aria-label': `Search ${noun}s by id, token, rule, label, or metric such as density<0.01`,
      oninput: () => this.search(),
      onkeydown: (event) => event.key === 'Escape' && event.target.blur(),
    });
    const sorts = ['id', ...new Set(this.features.flatMap((feature) => Object.keys(feature.numbers)))];
    this.select = element('select', { onchange: () => this.search() }, ...sorts.map((name) => element('option', { value: name }, name)));
    this.back = element('button', { type: 'button', onclick: () => this.step(-1) }, '‹ Previous');
    this.next = element('button', { type: 'button', onclick: () => this.step(1) }, 'Next ›');
    this.status = element('p', { class: 'status', role: 'status' });
    this.list = element('ol', { class: 'list', 'aria-label': `${noun}s found`, tabindex: 0 });
    this.detail = element('div', { class: 'detail', tabindex: -1 });
    const all = total === null ? '' : ` of ${total.toLocaleString('en')}`;
    const scanned = `${features.length.toLocaleString('en')}${all} ${noun}s shown · ${tokensScanned.toLocaleString('en')} tokens scanned · ${dead.toLocaleString('en')} dead`;
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
    this.mark();
    if (link) permalink(`#${this.key}=${feature.id}`);
    this.fill(feature);
  }

  // A feature that is at hand is shown at once; another when its file is read, unless the reader has gone on.
  fill(feature) {
    if (this.data.shards.length === 0) return this.detail.replaceChildren(...featureDetail(this, feature, this.data, feature.index));
    const shard = Math.floor(feature.index / this.data.shardSize);
    const path = this.data.shards[shard];
    if (!this.parts.has(shard)) this.parts.set(shard, unpackFile(path));
    return this.parts.get(shard).then(
      (part) => feature === this.current && this.detail.replaceChildren(...featureDetail(this, feature, part, feature.index % this.data.shardSize)),
      () => feature === this.current && this.detail.replaceChildren(element('p', { role: 'alert' }, `${path} is missing: keep the folder “shards” beside this page.`))
    );
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
  const { rule, labels, explanation } = feature;
  const strongest = labels.length ? { [data.labelScore]: labels[0][1] } : {};
  const scores = rule ? { 'rule precision': rule.precision, 'rule recall': rule.recall } : {};
  const numbers = { density: feature.density, 'max activation': feature.high, ...strongest, ...scores, ...feature.metrics };
  const words = feature.words.map((word) => data.vocabulary[word]);
  const searched = {
    rule: rule?.text ?? '',
    label: labels.map(([label]) => label).join('\n'),
    token: words.join('\n'),
    text: explanation ?? '',
  };
  for (const [where, text] of Object.entries(searched)) searched[where] = text.toLowerCase();
  const about = rule?.text ?? explanation ?? labels[0]?.[0] ?? (words.length ? spaced(words[0]) : 'no activations');
  return { ...feature, index, numbers, about, searched };
}

// One word of a search: 123 · #123 · density<0.01 · token:def · rule:call · label:keyword · anything in any of these.
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
  const [, where, words] = /^(?:(token|label|rule):)?(.+)$/.exec(term);
  if (where) return (feature) => feature.searched[where].includes(words);
  return (feature) => Object.values(feature.searched).some((text) => text.includes(words));
}

function examplesOf(feature, part, place) {
  const { featureStarts, tokenStarts, tokens, activations, documents, positions, groups, focuses } = part.arrays;
  const { low } = part.details[place];
  const examples = [];
  for (let row = featureStarts[place]; row < featureStarts[place + 1]; row += 1) {
    const [start, stop] = [tokenStarts[row], tokenStarts[row + 1]];
    const values = Array.from(activations.subarray(start, stop), (step) => low + (step / 255) * (feature.high - low));
    const clean = values.map((value) => (Math.abs(value) < (feature.high - low) / 510 ? 0 : value));
    examples.push({
      tokens: Array.from(tokens.subarray(start, stop), (token) => part.vocabulary[token]),
      values: clean,
      focus: focuses[row],
      peak: Math.max(0, ...clean),
      origin: part.documents[documents[row]],
      position: positions[row],
      group: part.groups[groups[row]],
    });
  }
  return examples;
}

function featureDetail(dashboard, feature, part, place) {
  const { data, heading } = dashboard;
  const detail = part.details[place];
  const numbers = Object.entries(feature.numbers).map(([name, value]) => element('div', {}, element('dt', {}, name), element('dd', {}, shown(value))));
  const token = ([index, value]) => ({ token: spaced(part.vocabulary[index]), value });
  const word = ([text, value]) => ({ text, value });
  const lists = [
    [`Labels, by ${data.labelScore}`, feature.labels.map(word)],
    ['Logits boosted', detail.boosted.map(token)],
    ['Logits suppressed', detail.suppressed.map(token)],
    ...Object.entries(detail.neighbours).map(([name, pairs]) => [`Nearest by ${name}`, pairs.map(([id, value]) => ({ id, value }))]),
    [`Heads, by ${data.attributionScore}`, detail.attribution.map(word)],
  ].filter(([, rows]) => rows.length);
  const panels = lists.map(([title, rows]) => element('section', {}, heading(2, {}, title), valueList(rows, dashboard)));
  if (detail.histogram) panels.unshift(element('section', {}, heading(2, {}, 'Activations'), histogram(detail.histogram)));
  return [
    element('div', { class: 'detail-head' }, heading(1, { class: 'heading' }, `${data.noun[0].toUpperCase()}${data.noun.slice(1)} ${feature.id}`), element('a', { href: `#${dashboard.key}=${feature.id}`, class: 'claim-id' }, `#${dashboard.key}=${feature.id}`)),
    feature.rule === null ? null : ruleLine(feature.rule),
    feature.explanation === null ? null : element('p', { class: 'explanation' }, feature.explanation),
    element('dl', { class: 'metrics' }, ...numbers),
    element('div', { class: 'panels' }, ...panels),
    ...exampleGroups(examplesOf(feature, part, place), part.groups, feature.high, detail.low, dashboard),
  ].filter((node) => node !== null);
}

// The rule, and how far it holds on other text, beside what a shuffled feature's rule reaches.
function ruleLine(rule) {
  const against = (name, value, chance) => element('span', {}, `${name} ${percent(value)} `, element('span', { class: 'muted' }, `(shuffled ${percent(chance)})`));
  const scores = [against('precision', rule.precision, rule.null_precision), ' · ', against('recall', rule.recall, rule.null_recall)];
  return element('p', { class: 'explanation rule' }, element('span', { class: 'words' }, 'Fires where ', element('strong', {}, rule.text)), element('span', { class: 'scores' }, 'on other documents: ', ...scores));
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

function exampleGroups(examples, groups, high, low, dashboard) {
  const names = groups.filter((name) => examples.some((example) => example.group === name));
  return names.map((name) => {
    const rows = examples.filter((example) => example.group === name).map((example) => {
      const origin = example.origin === '' ? '' : `${example.origin} · from token ${example.position.toLocaleString('en')}`;
      return element('div', { class: 'example' }, tintedText(example.tokens, example.values, low, high, example.focus), element('div', { class: 'origin' }, element('span', { class: 'document' }, origin), element('span', {}, strength(example))));
    });
    return element('section', { class: 'group' }, dashboard.heading(2, {}, name), ...rows);
  });
}
