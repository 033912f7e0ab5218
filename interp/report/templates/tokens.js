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
  strip.addEventListener('keydown', (event) => {
    const here = buttons.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -here, End: buttons.length - 1 - here }[event.key];
    if (here < 0 || step === undefined) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, here + step))];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  return { strip, buttons };
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
