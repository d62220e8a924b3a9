"use strict";
(() => {
  const said = document.getElementById("said");
  const say = (text) => { said.textContent = text; };
  const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

  // ---- sorting: the heads of a table become buttons
  const valueOf = (row, column, kind) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (kind !== "number") return text;
    const number = parseFloat(text);
    return Number.isNaN(number) ? null : number;
  };
  const sort = (table, head, column) => {
    const kind = head.dataset.sort;
    const down = head.ariaSort ? head.ariaSort === "ascending" : kind === "number";
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column, kind), row]);
    rows.sort(([one], [other]) => {
      if (one === null || other === null) return (one === null) - (other === null); // what has no number comes last
      const way = kind === "number" ? one - other : order.compare(one, other);
      return down ? -way : way;
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows.map(([, row]) => row));
    say(`Sorted by ${head.textContent}, ${down ? "descending" : "ascending"}.`);
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, head, column));
      head.replaceChildren(button);
    });
  }

  // ---- search: rows without the words are hidden
  const texts = new WeakMap();
  const search = (table, words) => {
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      shown += !row.hidden;
    }
    say(`${shown} of ${table.tBodies[0].rows.length} rows.`);
  };
  const inputs = [...document.querySelectorAll("input[data-filter]")];
  let waiting = 0;
  for (const input of inputs) {
    input.addEventListener("input", () => {
      for (const other of inputs) if (other.dataset.filter === input.dataset.filter) other.value = input.value;
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        search(document.getElementById(input.dataset.filter), input.value.toLowerCase().split(/\s+/).filter(Boolean));
        if ("grid" in input.dataset) document.dispatchEvent(new CustomEvent("students", { detail: input.value }));
      }, 120);
    });
  }

  // ---- paper: what is folded is opened
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
})();
