// The page is complete without this script; it adds sorting and filtering to its tables.
(() => {
  "use strict";

  const text = (cell) => cell.dataset.key ?? cell.textContent.trim();
  const collator = new Intl.Collator("en", { numeric: true });

  function compare(first, second) {
    const [a, b] = [Number(first), Number(second)];
    return Number.isNaN(a) || Number.isNaN(b) ? collator.compare(first, second) : a - b;
  }

  function sort(table, heading, status) {
    const headings = [...heading.parentNode.cells];
    const column = headings.indexOf(heading);
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const sign = descending ? -1 : 1;
    const rows = [...table.tBodies[0].rows].map((row) => [text(row.cells[column]), row]);
    // What is missing comes last, whichever way the rest is sorted.
    rows.sort(([a], [b]) =>
      a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const other of headings) other.setAttribute("aria-sort", "none");
    const order = descending ? "descending" : "ascending";
    heading.setAttribute("aria-sort", order);
    status.textContent = `Sorted by ${heading.textContent}, ${order}.`;
  }

  function addSorting(table, status) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading, status));
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
    }
  }

  function filter(table, wanted, status) {
    const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const content = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => content.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  }

  function addFilter(table, status) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "search";
    input.addEventListener("input", () => filter(table, input.value, status));
    label.append("Filter rows ", input);
    return label;
  }

  const MOST_IN_SIGHT = 12; // Rows that need no filter.

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const controls = document.createElement("div");
    const status = document.createElement("span");
    controls.className = "controls";
    status.setAttribute("role", "status");
    const count = table.tBodies[0].rows.length;
    if (count > 1) addSorting(table, status);
    if (count > MOST_IN_SIGHT) controls.append(addFilter(table, status));
    controls.append(status);
    table.closest(".scroll").before(controls);
  }
})();
