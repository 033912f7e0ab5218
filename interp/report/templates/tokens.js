// Text as a row of tokens, each tinted by a value: plain spans to read, or buttons to walk with the arrow keys.

function tint(node, value, low, high) {
  const share = value >= 0 ? value / (high || 1) : value / (low || 1);
  node.style.setProperty('--share', Math.min(1, share).toFixed(3));
  node.classList.toggle('cold', value < 0);
}

// Spans: one text, the token in focus underlined, values as titles.
function tintedText(tokens, values, low, high, focus) {
  const strip = element('p', { class: 'strip', dir: 'ltr' });
  tokens.forEach((token, index) => {
    const span = element('span', { class: 't', title: shown(values[index]) }, token);
    if (values[index] !== 0) tint(span, values[index], low, high);
    if (index === focus && values[index] !== 0) span.classList.add('peak');
    strip.append(span);
  });
  return strip;
}

// Buttons: look(index) on hover and focus, pick(index) on click; one of them is in the tab order.
function tokenButtons(tokens, label, { look, pick }) {
  const strip = element('div', { class: 'strip', role: 'group', 'aria-label': label, dir: 'ltr' });
  const buttons = tokens.map((token, index) =>
    element(
      'button',
      {
        type: 'button',
        class: 't',
        'aria-label': token.trim() === '' ? 'space' : null,
        tabindex: index === 0 ? 0 : -1,
        onpointerenter: () => look(index),
        onfocus: () => look(index),
        onclick: () => pick(index),
      },
      token
    )
  );
  buttons.forEach((button, index) => strip.append(button, ...(tokens[index].endsWith('↵') ? [element('br')] : [])));
  walked(strip, () => buttons);
  return { strip, buttons };
}

// Arrow keys, Home and End walk the buttons of a group, of which one is in the tab order.
function walked(group, all) {
  group.addEventListener('keydown', (event) => {
    const buttons = all();
    const here = buttons.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -here, End: buttons.length - 1 - here }[event.key];
    if (here < 0 || step === undefined) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, here + step))];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

views.tokens = (section, mount, data) => {
  const names = Object.keys(data.values);
  let locked = null;
  const readout = element('p', { class: 'readout', 'aria-live': 'polite' });
  const select = element('select', { onchange: () => paint() }, ...names.map((name) => element('option', {}, name)));
  const { strip, buttons } = tokenButtons(data.tokens, section.querySelector('h1, h2, h3').textContent, {
    look: (index) => locked === null && say(index),
    pick: (index) => {
      locked = locked === index ? null : index;
      buttons.forEach((button, other) => button.setAttribute('aria-pressed', String(other === locked)));
      say(index);
    },
  });

  function say(index) {
    const all = names.map((name, which) => `${name} ${shown(data.arrays[`values${which}`][index])} ${data.values[name][2]}`.trim());
    readout.replaceChildren(element('code', {}, brief(data.tokens[index])), ` token ${index} · ${all.join(' · ')}`);
  }

  function paint() {
    const [low, high, unit] = data.values[select.value];
    const values = data.arrays[`values${names.indexOf(select.value)}`];
    buttons.forEach((button, index) => tint(button, values[index], low, high));
    range.textContent = `colour from ${shown(low)} to ${shown(high)} ${unit}`;
  }

  const range = element('span', { class: 'muted' });
  mount.append(element('div', { class: 'bar' }, element('label', {}, 'Colour by ', select), range), readout, strip);
  paint();
};

// What each token brings to an output, part by part: the parts of one group beside the text, which one of them colours.
views.attribution = (section, mount, data) => {
  const { tokens, targets, parts, unit } = data;
  const n = tokens.length;
  const brought = (part, target) => data.arrays.values.subarray((part * targets.length + target) * n, (part * targets.length + target + 1) * n);
  const total = (part, target) => brought(part, target).reduce((sum, value) => sum + value, 0);
  const groups = [...new Set(parts.map(([group]) => group))];
  const chosen = { target: targets.length - 1, part: null };

  const select = element('select', { onchange: () => pick({ target: Number(select.value) }) }, ...targets.map(([at, label], index) => element('option', { value: index }, `${label} (${at})`)));
  const group = element('select', { onchange: () => pick({}) }, ...groups.map((name) => element('option', {}, name)));
  const sum = element('span', { class: 'muted' });
  const list = element('ul', { class: 'list' });
  const range = element('p', { class: 'status' });
  const readout = element('p', { class: 'readout', 'aria-live': 'polite' });
  const { strip, buttons } = tokenButtons(tokens, 'Tokens, coloured by what they bring; those with a dotted line are targets', {
    look: (index) => say(index),
    pick: (index) => pick({ target: nextTarget(index) }),
  });
  walked(list, () => [...list.querySelectorAll('.pick')]);

  // The target asked about at a token; again, the next one there.
  function nextTarget(index) {
    const here = [...targets.keys()].filter((target) => targets[target][0] === index);
    return here.length ? here[(here.indexOf(chosen.target) + 1) % here.length] : chosen.target;
  }

  function pick({ target = chosen.target, part }) {
    chosen.target = target;
    select.value = target;
    const own = [...parts.keys()].filter((index) => parts[index][0] === group.value);
    const totals = new Map(own.map((index) => [index, total(index, target)]));
    own.sort((a, b) => Math.abs(totals.get(b)) - Math.abs(totals.get(a)));
    chosen.part = part ?? (own.includes(chosen.part) ? chosen.part : own[0]);
    const largest = Math.abs(totals.get(own[0])) || 1;
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...own.map((index) => element('li', {}, row(index, totals.get(index), largest))));
    if (focused) list.querySelector('[aria-current=true]').focus();
    const whole = own.reduce((all, index) => all + totals.get(index), 0);
    sum.textContent = `sum ${shown(whole)} ${unit}`;
    paint();
  }

  function row(index, value, largest) {
    const bar = element('span', { class: `gauge ${value < 0 ? 'negative' : ''}`, 'aria-hidden': 'true' }, element('i'));
    bar.style.setProperty('--share', (Math.abs(value) / largest).toFixed(3));
    const current = index === chosen.part;
    return element(
      'button',
      { type: 'button', class: 'pick part', 'aria-current': String(current), tabindex: current ? 0 : -1, onclick: () => pick({ part: index }) },
      element('span', { class: 'about' }, parts[index][1]),
      bar,
      element('span', { class: 'figure' }, shown(value))
    );
  }

  function paint() {
    const values = brought(chosen.part, chosen.target);
    const reach = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    buttons.forEach((button, index) => {
      tint(button, values[index], -reach, reach);
      button.title = shown(values[index]);
      button.classList.toggle('target', targets.some(([at]) => at === index));
      button.setAttribute('aria-pressed', String(index === targets[chosen.target][0]));
    });
    range.textContent = `Colour from −${shown(reach)} (cold) over 0 (none) to ${shown(reach)} ${unit} (warm). Point at or focus a token for its value; press a dotted one to ask about it.`;
    const strongest = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
    say(strongest[0]);
  }

  function say(index) {
    const value = brought(chosen.part, chosen.target)[index];
    const [at, label] = targets[chosen.target];
    readout.replaceChildren(element('b', {}, parts[chosen.part][1]), ' brings ', element('b', {}, shown(value)), ` ${unit} from `, element('code', {}, brief(tokens[index])), ` (${index}) to the ${label} at ${at}`);
  }

  const label = (text, control) => element('label', {}, text, control);
  mount.append(
    element('div', { class: 'bar' }, label('Ask about ', select), groups.length > 1 ? label('Parts ', group) : null, sum),
    element('div', { class: 'browser' }, list, element('div', { class: 'detail' }, range, readout, strip))
  );
  pick({});
};
