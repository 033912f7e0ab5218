// Attention: a grid of heads, one head large, and what each token attends to. Hover and focus look, click and tap lock.

views.attention = (section, mount, data) => new Attention(section, mount, data);

// The head to begin with: the best by the first score.
function bestHead({ scores }) {
  const first = Object.values(scores)[0] ?? [0];
  return first.indexOf(Math.max(...first));
}

class Attention {
  constructor(section, mount, data) {
    Object.assign(this, { data, n: data.tokens.length, lockedHead: null, lockedToken: null, head: bestHead(data), token: data.tokens.length - 1 });
    this.build(section, mount);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.paintAll());
    this.paintAll();
    this.show();
  }

  build(section, mount) {
    const names = Object.keys(this.data.scores);
    this.select = element('select', { onchange: () => this.caption() }, ...names.map((name) => element('option', {}, name)));
    this.direction = element('select', { onchange: () => this.show() }, element('option', { value: 'to' }, 'attends to'), element('option', { value: 'from' }, 'is attended by'));
    this.legend = element('canvas', { width: 64, height: 1, 'aria-hidden': 'true' });
    this.heads = this.makeHeads();
    const level = Number(section.querySelector('h1, h2, h3').tagName[1]) + 1;
    this.title = element(`h${level}`, {});
    this.canvas = element('canvas', { width: this.n, height: this.n, role: 'img', onpointermove: (event) => this.point(event, false), onclick: (event) => this.point(event, true) });
    this.readout = element('p', { class: 'readout', 'aria-live': 'polite' });
    const { strip, buttons } = tokenButtons(this.data.tokens, 'Tokens; each shows what the chosen head does there', {
      look: (index) => this.look({ token: index }),
      pick: (index) => this.lock({ token: index }),
    });
    this.buttons = buttons;
    const layers = Array.from({ length: this.data.layers }, (_, layer) => {
      const row = this.heads.slice(layer * this.data.heads, (layer + 1) * this.data.heads);
      const group = element('div', { class: 'row', role: 'group', 'aria-label': `Layer ${layer}` }, ...row);
      group.style.setProperty('--heads', this.data.heads);
      return element('div', { class: 'layer' }, element('span', { class: 'name', 'aria-hidden': 'true' }, `L${layer}`), group);
    });
    const scale = element('span', { class: 'scale' }, '0', this.legend, `${shown(this.data.scale)} (root scale)`);
    mount.append(
      element('div', { class: 'bar' }, names.length ? element('label', {}, 'Score under each head ', this.select) : null, element('label', {}, 'A token ', this.direction), scale),
      element('p', { class: 'status' }, 'Point at or focus a head or a token to look; click or tap to lock it, again to let go.'),
      element('div', { class: 'heads' }, element('div', {}, ...layers), element('div', { class: 'big' }, this.title, this.canvas, element('div', { class: 'axis' }, element('span', {}, 'rows: attending token'), element('span', {}, 'columns: attended token')))),
      this.readout,
      strip
    );
    this.caption();
  }

  makeHeads() {
    return Array.from({ length: this.data.layers * this.data.heads }, (_, head) =>
      element(
        'button',
        { type: 'button', class: 'head', 'aria-pressed': 'false', onpointerenter: (event) => event.pointerType !== 'touch' && this.look({ head }), onfocus: () => this.look({ head }), onclick: () => this.lock({ head }) },
        element('canvas', { width: this.n, height: this.n, 'aria-hidden': 'true' }),
        element('span', {}, this.headName(head), element('span', { class: 'lock', 'aria-hidden': 'true' }, ' ●')),
        element('span', { class: 'score' })
      )
    );
  }

  headName(head) {
    return `L${Math.floor(head / this.data.heads)}H${head % this.data.heads}`;
  }

  caption() {
    const scores = this.data.scores[this.select.value];
    this.heads.forEach((button, head) => (button.querySelector('.score').textContent = scores ? scores[head].toFixed(2) : ''));
  }

  value(head, query, key) {
    return (this.data.arrays.patterns[(head * this.n + query) * this.n + key] / 255) * this.data.scale;
  }

  look({ head, token }) {
    if (head !== undefined && this.lockedHead === null) this.head = head;
    if (token !== undefined && this.lockedToken === null) this.token = token;
    this.show();
  }

  lock({ head, token }) {
    if (head !== undefined) [this.head, this.lockedHead] = [head, this.lockedHead === head ? null : head];
    if (token !== undefined) [this.token, this.lockedToken] = [token, this.lockedToken === token ? null : token];
    this.heads.forEach((button, index) => button.setAttribute('aria-pressed', String(index === this.lockedHead)));
    this.buttons.forEach((button, index) => button.setAttribute('aria-pressed', String(index === this.lockedToken)));
    this.show();
  }

  // The large pattern: its cell under the pointer; a click locks the row's token.
  point(event, lock) {
    const box = this.canvas.getBoundingClientRect();
    const cell = (offset, size) => Math.max(0, Math.min(this.n - 1, Math.floor((offset / size) * this.n)));
    const [query, key] = [cell(event.clientY - box.top, box.height), cell(event.clientX - box.left, box.width)];
    const at = this.direction.value === 'to' ? query : key;
    if (lock) this.lock({ token: at });
    else this.look({ token: at });
    this.say(query, [key]);
  }

  show() {
    const along = Array.from({ length: this.n }, (_, other) => (this.direction.value === 'to' ? this.value(this.head, this.token, other) : this.value(this.head, other, this.token)));
    const top = Math.max(...along) || 1;
    this.buttons.forEach((button, other) => {
      tint(button, along[other], 0, top);
      button.title = along[other].toFixed(2);
      button.classList.toggle('peak', other === this.token);
    });
    const name = this.headName(this.head);
    this.title.textContent = `${name}${this.lockedHead === this.head ? ' (locked)' : ''}`;
    this.canvas.setAttribute('aria-label', `Attention pattern of head ${name}, ${this.n} by ${this.n} tokens`);
    this.paint(this.canvas, this.head, true);
    const best = [...along.keys()].filter((other) => along[other] > 0.005).sort((a, b) => along[b] - along[a]).slice(0, 5);
    this.say(this.token, best);
  }

  say(at, others) {
    const to = this.direction.value === 'to';
    const parts = [element('b', {}, this.headName(this.head)), ' ', element('code', {}, brief(this.data.tokens[at])), ` (${at}) ${to ? 'attends to' : 'is attended by'} `];
    others.forEach((other, index) => {
      const value = to ? this.value(this.head, at, other) : this.value(this.head, other, at);
      parts.push(index ? ', ' : '', element('code', {}, brief(this.data.tokens[other])), ` (${other}) ${value.toFixed(2)}`);
    });
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
    const { n, palette } = this;
    const context = canvas.getContext('2d');
    const image = context.createImageData(n, n);
    const patterns = this.data.arrays.patterns.subarray(head * n * n, (head + 1) * n * n);
    const down = this.direction.value === 'from';
    patterns.forEach((step, cell) => {
      const chosen = marked && (down ? cell % n : Math.floor(cell / n)) === this.token;
      const colour = palette[step];
      const blend = chosen ? colour.map((channel, index) => Math.round(0.72 * channel + 0.28 * this.markColour[index])) : colour;
      image.data.set([...blend, 255], cell * 4);
    });
    context.putImageData(image, 0, 0);
  }
}
