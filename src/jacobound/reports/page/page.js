"use strict";
// Sorting and filtering of tables; without it everything is there, in the order of the results.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, k) => {
    const datum = row.cells[k].querySelector("data");
    return datum === null ? row.cells[k].textContent : Number(datum.value.replace("inf", "Infinity"));
  };
  const compared = (a, b) => {
    if (typeof a === "string" || typeof b === "string") {
      return String(a).localeCompare(String(b), "en", { numeric: true });
    }
    return Number.isNaN(a) ? (Number.isNaN(b) ? 0 : 1) : Number.isNaN(b) ? -1 : a < b ? -1 : a > b ? 1 : 0;
  };
  heads.forEach((head, k) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const keyed = [...body.rows].map((row) => [value(row, k), row]);
      keyed.sort((a, b) => sign * compared(a[0], b[0]));
      body.append(...keyed.map((pair) => pair[1]));
    });
  });
  const filter = document.querySelector(`[data-filters="${table.id}"]`);
  if (filter === null) continue;
  filter.hidden = false;
  const input = filter.querySelector("input");
  const told = filter.querySelector("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(",").map((word) => word.trim());
    let shown = 0;
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    told.textContent = `${shown} of ${body.rows.length} rows`;
  });
}
