// Sortable tables: each heading becomes a button; numbers sort as numbers, everything else as text.

function sortKey(cell) {
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = Number(text.replaceAll(',', '').replace('−', '-'));
  return text === '' || text === '–' || Number.isNaN(number) ? text : number;
}

function compareCells(a, b) {
  if (typeof a === typeof b) return typeof a === 'number' ? a - b : a.localeCompare(b);
  return typeof a === 'number' ? -1 : 1;
}

function sortBy(table, heading) {
  const column = heading.cellIndex;
  const direction = heading.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  table.querySelectorAll('[aria-sort]').forEach((other) => other.removeAttribute('aria-sort'));
  heading.setAttribute('aria-sort', direction > 0 ? 'ascending' : 'descending');
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: sortKey(row.cells[column]) }));
  rows.sort((a, b) => direction * compareCells(a.key, b.key));
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

document.querySelectorAll('table.sortable').forEach((table) => {
  table.querySelectorAll('thead th:not(.plain)').forEach((heading) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'sort';
    button.textContent = heading.textContent;
    button.addEventListener('click', () => sortBy(table, heading));
    heading.replaceChildren(button);
  });
});
