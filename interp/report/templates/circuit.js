// Circuit: nodes in rows from the input up to the logits, edges by weight and sign, and the same edges as a list for the keyboard.

views.circuit = (section, mount, data) => new Circuit(section, mount, data);

const NODE = { height: 26, gap: 10, lines: 34, rows: 64, letter: 7.4 };

class Circuit {
  constructor(section, mount, data) {
    const { source, target, weight } = data.arrays;
    this.edges = data.ways.map((way, index) => ({ source: source[index], target: target[index], way, weight: weight[index] }));
    Object.assign(this, { data, shown: this.edges.length, node: null, looked: null, locked: null, width: 0 });
    this.build(section, mount);
    new ResizeObserver(() => this.resize()).observe(this.stage);
    this.resize();
    this.say(null);
  }

  build(section, mount) {
    const title = section.querySelector('h1, h2, h3').textContent;
    const used = [...new Set(this.edges.flatMap(({ source, target }) => [source, target]))].sort((a, b) => a - b);
    this.slider = element('input', { type: 'range', min: 1, max: this.edges.length, value: this.edges.length, oninput: () => this.cut() });
    this.count = element('output', {});
    this.select = element('select', { onchange: () => this.choose() }, element('option', { value: '' }, 'all nodes'), ...used.map((node) => element('option', { value: node }, this.data.nodes[node])));
    this.readout = element('p', { class: 'readout', 'aria-live': 'polite' });
    this.list = element('ul', { class: 'list', 'aria-label': `Edges of ${title}, strongest first` });
    this.stage = element('div', { class: 'stage' });
    const key = element('span', { class: 'edge-key' }, element('i', { class: 'up' }), 'raises ', element('i', { class: 'down' }), `lowers${this.data.unit ? ` (${this.data.unit})` : ''}`);
    mount.append(
      element('div', { class: 'bar' }, element('label', {}, 'Strongest edges ', this.slider), this.count, element('label', {}, 'Node ', this.select), key),
      this.readout,
      element('div', { class: 'browser' }, this.list, element('div', { class: 'detail' }, this.stage))
    );
    this.buttons = this.edges.map((edge, index) => this.button(edge, index));
    this.list.addEventListener('keydown', (event) => this.walk(event));
    this.used = used;
    this.title = title;
  }

  button(edge, index) {
    const button = element(
      'button',
      { type: 'button', class: 'pick', 'aria-pressed': 'false', tabindex: -1, onpointerenter: () => this.look(index), onpointerleave: () => this.look(null), onfocus: () => this.look(index), onclick: () => this.lock(index) },
      element('span', { class: 'id' }, String(index + 1)),
      element('span', { class: 'about' }, this.edgeName(edge)),
      element('span', { class: 'figure' }, shown(edge.weight))
    );
    return { button, item: element('li', {}, button) };
  }

  edgeName({ source, target, way }) {
    return `${this.data.nodes[source]} → ${this.data.nodes[target]}${way ? ` ${way}` : ''}`;
  }

  visible(edge, index) {
    return index < this.shown && (this.node === null || edge.source === this.node || edge.target === this.node);
  }

  cut() {
    this.shown = Number(this.slider.value);
    this.draw();
  }

  choose() {
    this.node = this.select.value === '' ? null : Number(this.select.value);
    this.draw();
    this.say(null);
  }

  look(index) {
    this.looked = index;
    this.mark();
  }

  lock(index) {
    this.locked = this.locked === index ? null : index;
    this.buttons.forEach(({ button }, other) => button.setAttribute('aria-pressed', String(other === this.locked)));
    this.mark();
  }

  // One edge is in the tab order, the arrow keys walk.
  walk(event) {
    const buttons = [...this.list.querySelectorAll('button')];
    const here = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -here, End: buttons.length - 1 - here }[event.key];
    if (here < 0 || step === undefined) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, here + step))];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  resize() {
    const width = Math.floor(this.stage.clientWidth);
    if (width === 0 || width === this.width) return;
    this.width = width;
    this.place();
    this.draw();
  }

  // Nodes of a row side by side, on further lines where they do not fit.
  place() {
    const { nodes, rows } = this.data;
    const size = Math.max(...this.used.map((node) => nodes[node].length)) * NODE.letter + 14;
    const fit = Math.max(1, Math.floor((this.width + NODE.gap) / (size + NODE.gap)));
    this.places = new Map();
    let y = NODE.height / 2 + 2;
    for (const row of [...new Set(this.used.map((node) => rows[node]))].sort((a, b) => b - a)) {
      const members = this.used.filter((node) => rows[node] === row);
      const lines = Math.ceil(members.length / fit);
      const each = Math.ceil(members.length / lines);
      members.forEach((node, index) => {
        const line = Math.floor(index / each);
        const here = Math.min(each, members.length - line * each);
        this.places.set(node, { x: (this.width * ((index % each) + 0.5)) / here, y: y + line * NODE.lines });
      });
      y += (lines - 1) * NODE.lines + NODE.rows;
    }
    this.size = size;
    this.height = y - NODE.rows + NODE.height / 2 + 2;
  }

  draw() {
    const svg = drawing('svg', { viewBox: `0 0 ${this.width} ${this.height}`, width: this.width, height: this.height, role: 'img' });
    const seen = this.edges.map((edge, index) => this.visible(edge, index));
    const touched = new Set(this.edges.flatMap((edge, index) => (seen[index] ? [edge.source, edge.target] : [])));
    const largest = Math.abs(this.edges[0].weight) || 1;
    this.paths = new Map();
    this.edges.forEach((edge, index) => {
      if (!seen[index]) return;
      const d = this.curve(edge);
      const line = drawing('path', { d, class: `edge ${edge.weight < 0 ? 'down' : 'up'}`, 'stroke-width': (1 + 4.5 * Math.abs(edge.weight) / largest).toFixed(2) });
      const near = drawing('path', { d, class: 'near' });
      near.addEventListener('pointerenter', () => this.look(index));
      near.addEventListener('pointerleave', () => this.look(null));
      near.addEventListener('click', () => this.lock(index));
      this.paths.set(index, line);
      svg.prepend(line);
      svg.append(near);
    });
    this.boxes = new Map(this.used.map((node) => [node, this.box(node, touched.has(node))]));
    svg.append(...this.boxes.values());
    const chosen = this.buttons.filter((_, index) => seen[index]);
    svg.setAttribute('aria-label', `${this.title}: ${chosen.length} edges between ${touched.size} nodes, drawn upwards; the list beside it has them all`);
    this.stage.replaceChildren(svg);
    this.list.replaceChildren(...chosen.map(({ item }) => item));
    chosen.forEach(({ button }, place) => (button.tabIndex = place === 0 ? 0 : -1));
    const least = Math.abs(this.edges[this.shown - 1].weight);
    this.count.textContent = `${this.shown} of ${this.edges.length}, each at least ${shown(least)}`;
    this.mark();
  }

  box(node, touched) {
    const { x, y } = this.places.get(node);
    const group = drawing('g', { class: `node${touched ? '' : ' loose'}` });
    group.append(
      drawing('rect', { x: x - this.size / 2, y: y - NODE.height / 2, width: this.size, height: NODE.height, rx: 7 }),
      drawing('text', { x, y: y + 4, 'text-anchor': 'middle' }, this.data.nodes[node])
    );
    group.addEventListener('pointerenter', () => this.say(node));
    group.addEventListener('click', () => {
      this.select.value = this.node === node ? '' : String(node);
      this.choose();
    });
    return group;
  }

  // Queries come in at the left of a node, keys in the middle, values at the right.
  curve({ source, target, way }) {
    const [from, to] = [this.places.get(source), this.places.get(target)];
    const x = to.x + ({ q: -0.3, v: 0.3 }[way] ?? 0) * this.size;
    const [top, bottom] = [to.y + NODE.height / 2, from.y - NODE.height / 2];
    const bend = Math.max(18, (bottom - top) * 0.45);
    return `M${from.x.toFixed(1)} ${bottom.toFixed(1)} C${from.x.toFixed(1)} ${(bottom - bend).toFixed(1)} ${x.toFixed(1)} ${(top + bend).toFixed(1)} ${x.toFixed(1)} ${top.toFixed(1)}`;
  }

  mark() {
    const at = this.looked ?? this.locked;
    this.stage.classList.toggle('looking', at !== null && this.paths.has(at));
    this.paths.forEach((path, index) => path.classList.toggle('on', index === at));
    const ends = at === null ? [] : [this.edges[at].source, this.edges[at].target];
    this.boxes.forEach((box, node) => box.classList.toggle('on', ends.includes(node)));
    this.buttons.forEach(({ button }, index) => (index === at ? button.setAttribute('aria-current', 'true') : button.removeAttribute('aria-current')));
    if (at !== null) this.readout.replaceChildren(element('b', {}, this.edgeName(this.edges[at])), ` ${shown(this.edges[at].weight)} ${this.data.unit}`, this.locked === at ? ' (locked)' : '');
  }

  say(node) {
    if (node === null) {
      this.readout.textContent = 'Point at or focus an edge to read it; click to lock it. Click a node to see its edges alone.';
      return;
    }
    const seen = this.edges.filter((edge, index) => this.visible(edge, index));
    const [into, from] = [seen.filter((edge) => edge.target === node).length, seen.filter((edge) => edge.source === node).length];
    this.readout.replaceChildren(element('b', {}, this.data.nodes[node]), ` ${into} edges in, ${from} out`);
  }
}
