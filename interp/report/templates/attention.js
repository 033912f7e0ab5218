// Attention: a grid of heads, one head large, and what each token attends to. Hover and focus look, click and tap lock.

views.attention = (section, mount, data) => new Attention(section, mount, data);

// The head to begin with: the best by the first score.
function bestHead({ scores }) {
  const first = Object.values(scores)[0] ?? [0];
  return first.indexOf(Math.max(...first));
}

class Attention {
  constructor(section, mount, data) {
    const keys = data.keys ?? data.tokens;
    Object.assign(this, { data, keys, rows: data.tokens.length, columns: keys.length, lockedHead: null, lockedToken: null, head: bestHead(data), token: data.tokens.length - 1 });
    this.build(section, mount);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.paintAll());
    this.paintAll();
    this.show();
  }

  build(section, mount) {
    const names = Object.keys(this.data.scores);
    const options = (labels) => labels.map((label) => element('option', {}, label));
    this.select = element('select', { onchange: () => this.arrange() }, ...options(names));
    this.order = element('select', { onchange: () => this.arrange() }, ...options(['by layer', 'by score']));
    this.filter = element('select', { onchange: () => this.arrange() }, element('option', { value: '' }, `all ${this.data.layers * this.data.heads}`), ...this.classOptions());
    this.direction = element('select', { onchange: () => this.turn() }, element('option', { value: 'to' }, 'attends to'), element('option', { value: 'from' }, 'is attended by'));
    this.legend = element('canvas', { width: 64, height: 1, 'aria-hidden': 'true' });
    this.heads = this.makeHeads();
    const level = Number(section.querySelector('h1, h2, h3').tagName[1]) + 1;
    this.title = element(`h${level}`, {});
    this.canvas = element('canvas', { width: this.columns, height: this.rows, role: 'img', onpointermove: (event) => this.point(event, false), onclick: (event) => this.point(event, true) });
    this.readout = element('p', { class: 'readout', 'aria-live': 'polite' });
    this.grid = element('div', {});
    const scale = element('span', { class: 'scale' }, '0', this.legend, `${shown(this.data.scale)} (root scale)`);
    const label = (text, control) => element('label', {}, text, control);
    mount.append(
      element('div', { class: 'bar' }, this.data.classes ? label('Heads ', this.filter) : null, names.length ? label('Score under each head ', this.select) : null, names.length ? label('Order ', this.order) : null, label('A token ', this.direction), scale),
      element('p', { class: 'status' }, 'Point at or focus a head or a token to look; click or tap to lock it, again to let go.'),
      element('div', { class: 'heads' }, this.grid, element('div', { class: 'big' }, this.title, this.canvas, element('div', { class: 'axis' }, element('span', {}, 'rows: attending token'), element('span', {}, 'columns: attended token')))),
      this.readout,
      ...this.makeStrips()
    );
    this.arrange();
  }

  // One text, or the attending tokens and the attended ones.
  makeStrips() {
    const strip = (tokens, label, side) =>
      tokenButtons(tokens, label, { look: (token) => this.look({ token, side }), pick: (token) => this.lock({ token, side }) });
    if (!this.data.keys) {
      const { strip: row, buttons } = strip(this.data.tokens, 'Tokens; each shows what the chosen head does there', null);
      this.buttons = { to: buttons, from: buttons };
      return [row];
    }
    const both = { to: strip(this.data.tokens, 'Attending tokens', 'to'), from: strip(this.keys, 'Attended tokens', 'from') };
    this.buttons = { to: both.to.buttons, from: both.from.buttons };
    return Object.values(both).flatMap(({ strip: row }) => [element('p', { class: 'side' }, row.getAttribute('aria-label')), row]);
  }

  makeHeads() {
    return Array.from({ length: this.data.layers * this.data.heads }, (_, head) =>
      element(
        'button',
        { type: 'button', class: 'head', title: this.data.classes?.[head], 'aria-pressed': 'false', onpointerenter: (event) => event.pointerType !== 'touch' && this.look({ head }), onfocus: () => this.look({ head }), onclick: () => this.lock({ head }) },
        element('canvas', { width: this.columns, height: this.rows, 'aria-hidden': 'true' }),
        element('span', {}, this.headName(head), element('span', { class: 'lock', 'aria-hidden': 'true' }, ' ●')),
        element('span', { class: 'score' })
      )
    );
  }

  classOptions() {
    const counts = new Map();
    for (const name of this.data.classes ?? []) counts.set(name, (counts.get(name) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => element('option', { value: name }, `${name} (${count})`));
  }

  headName(head) {
    return `L${Math.floor(head / this.data.heads)}H${head % this.data.heads}`;
  }

  // The heads asked for, by layer or by the score under them.
  arrange() {
    const scores = this.data.scores[this.select.value];
    this.heads.forEach((button, head) => (button.querySelector('.score').textContent = scores ? scores[head].toFixed(2) : ''));
    const chosen = [...this.heads.keys()].filter((head) => !this.filter.value || this.data.classes[head] === this.filter.value);
    const row = (heads, label) => {
      const group = element('div', { class: 'row', role: 'group', 'aria-label': label }, ...heads.map((head) => this.heads[head]));
      group.style.setProperty('--heads', this.data.heads);
      return group;
    };
    if (scores && this.order.value === 'by score') {
      this.grid.replaceChildren(row(chosen.sort((a, b) => scores[b] - scores[a]), `Heads by ${this.select.value}`));
      return;
    }
    const layers = Array.from({ length: this.data.layers }, (_, layer) => chosen.filter((head) => Math.floor(head / this.data.heads) === layer));
    const rows = layers.map((heads, layer) => heads.length && element('div', { class: 'layer' }, element('span', { class: 'name', 'aria-hidden': 'true' }, `L${layer}`), row(heads, `Layer ${layer}`)));
    this.grid.replaceChildren(...rows.filter(Boolean));
  }

  value(head, query, key) {
    return (this.data.arrays.patterns[(head * this.rows + query) * this.columns + key] / 255) * this.data.scale;
  }

  // The other direction; where its tokens are others, from their last one.
  turn() {
    if (this.data.keys) [this.token, this.lockedToken] = [this.buttons[this.direction.value].length - 1, null];
    this.lock({});
  }

  look({ head, token, side = null }) {
    if (head !== undefined && this.lockedHead === null) this.head = head;
    if (token !== undefined && this.lockedToken === null) this.choose(token, side);
    this.show();
  }

  lock({ head, token, side = null }) {
    if (head !== undefined) [this.head, this.lockedHead] = [head, this.lockedHead === head ? null : head];
    if (token !== undefined) {
      const again = this.lockedToken === token && (side === null || side === this.direction.value);
      this.choose(token, side);
      this.lockedToken = again ? null : token;
    }
    this.heads.forEach((button, index) => button.setAttribute('aria-pressed', String(index === this.lockedHead)));
    for (const [way, buttons] of Object.entries(this.buttons)) {
      if (!this.data.keys && way === 'from') continue;
      buttons.forEach((button, index) => button.setAttribute('aria-pressed', String(index === this.lockedToken && (!this.data.keys || way === this.direction.value))));
    }
    this.show();
  }

  choose(token, side) {
    this.token = token;
    if (side) this.direction.value = side;
  }

  // The large pattern: its cell under the pointer; a click locks the row's token.
  point(event, lock) {
    const box = this.canvas.getBoundingClientRect();
    const cell = (offset, size, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / size) * count)));
    const [query, key] = [cell(event.clientY - box.top, box.height, this.rows), cell(event.clientX - box.left, box.width, this.columns)];
    const at = this.direction.value === 'to' ? query : key;
    if (lock) this.lock({ token: at });
    else this.look({ token: at });
    this.say(query, key);
  }

  show() {
    const to = this.direction.value === 'to';
    const [own, others] = to ? [this.buttons.to, this.buttons.from] : [this.buttons.from, this.buttons.to];
    const along = others.map((_, other) => (to ? this.value(this.head, this.token, other) : this.value(this.head, other, this.token)));
    const top = Math.max(...along) || 1;
    if (own !== others) own.forEach((button) => tint(button, 0, 0, 1));
    others.forEach((button, other) => {
      tint(button, along[other], 0, top);
      button.title = along[other].toFixed(2);
      button.classList.remove('peak');
    });
    own.forEach((button, index) => button.classList.toggle('peak', index === this.token));
    const name = this.headName(this.head);
    const kind = this.data.classes ? ` · ${this.data.classes[this.head]}` : '';
    this.title.textContent = `${name}${kind}${this.lockedHead === this.head ? ' (locked)' : ''}`;
    this.canvas.setAttribute('aria-label', `Attention pattern of head ${name}, ${this.rows} by ${this.columns} tokens`);
    this.paint(this.canvas, this.head, true);
    const best = [...along.keys()].filter((other) => along[other] > 0.005).sort((a, b) => along[b] - along[a]);
    this.tell(this.token, best.slice(0, 5), (other) => along[other]);
  }

  // One cell of the pattern in words.
  say(query, key) {
    const [at, other] = this.direction.value === 'to' ? [query, key] : [key, query];
    this.tell(at, [other], () => this.value(this.head, query, key));
  }

  tell(at, others, value) {
    const to = this.direction.value === 'to';
    const [own, beside] = to ? [this.data.tokens, this.keys] : [this.keys, this.data.tokens];
    const parts = [element('b', {}, this.headName(this.head)), ' ', element('code', {}, brief(own[at])), ` (${at}) ${to ? 'attends to' : 'is attended by'} `];
    others.forEach((other, index) => parts.push(index ? ', ' : '', element('code', {}, brief(beside[other])), ` (${other}) ${value(other).toFixed(2)}`));
    this.readout.replaceChildren(...parts, others.length ? '' : 'nothing above 0.005');
  }

  paintAll() {
    const style = getComputedStyle(document.documentElement);
    const channels = (name) => [1, 3, 5].map((at) => parseInt(style.getPropertyValue(name).trim().slice(at, at + 2), 16));
    const [from, to, mark] = ['--sunk', '--accent', '--heat'].map(channels);
    this.palette = Array.from({ length: 256 }, (_, step) => from.map((channel, index) => Math.round(channel + Math.sqrt(step / 255) * (to[index] - channel))));
    this.markColour = mark;
    this.heads.forEach((button, head) => this.paint(button.querySelector('canvas'), head, false));
    this.paint(this.canvas, this.head, true);
    const context = this.legend.getContext('2d');
    const image = context.createImageData(64, 1);
    for (let x = 0; x < 64; x += 1) image.data.set([...this.palette[Math.round((x / 63) ** 2 * 255)], 255], x * 4);
    context.putImageData(image, 0, 0);
  }

  paint(canvas, head, marked) {
    const { rows, columns, palette } = this;
    const context = canvas.getContext('2d');
    const image = context.createImageData(columns, rows);
    const patterns = this.data.arrays.patterns.subarray(head * rows * columns, (head + 1) * rows * columns);
    const down = this.direction.value === 'from';
    patterns.forEach((step, cell) => {
      const chosen = marked && (down ? cell % columns : Math.floor(cell / columns)) === this.token;
      const colour = palette[step];
      const blend = chosen ? colour.map((channel, index) => Math.round(0.72 * channel + 0.28 * this.markColour[index])) : colour;
      image.data.set([...blend, 255], cell * 4);
    });
    context.putImageData(image, 0, 0);
  }
}
