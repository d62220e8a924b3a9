"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const percent = (score) => parseFloat(score);

  // ---- who made a known mistake: all names, when they are asked for
  for (const cell of document.querySelectorAll("[data-who]")) {
    const more = cell.querySelector(".more");
    if (!more) continue;
    const button = make("button", more.textContent, "more-button");
    button.type = "button";
    button.addEventListener("click", () => {
      const links = data.mistakes[cell.dataset.who].flatMap((student, place) => {
        const link = make("a");
        link.href = data.files[student];
        link.append(make("bdi", data.names[student]));
        return place ? [", ", link] : [link];
      });
      cell.replaceChildren(...links);
      cell.querySelector("a").focus();
    });
    more.replaceWith(button);
  }

  // ---- the heat map: only the rows in view are in the page
  const SPARE = 8; // rows above and below the view
  const PAPER = 20000; // cells: more are not printed
  const FIXED = 2; // the columns before the tasks: name and total
  const names = data.names.map((name) => name.toLowerCase());
  const kindOf = (student, task) => data.kinds[parseInt(data.cells[student].substr(2 * task, 2), 36) - 36];
  const every = data.tasks.map((_, task) => task);
  let tasks = every; // the tasks that are columns
  let students = []; // the students that are rows, in their order
  let sorted = { column: 0, down: false };
  let words = [];
  let active = { row: 0, column: 0 }; // row 0 is the head
  let first = 0; // the first row in the page

  const box = make("div", undefined, "grid");
  const space = make("div", undefined, "grid-space");
  const table = make("table");
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", "Heat map of students and tasks");
  table.setAttribute("aria-describedby", "grid-help");
  const columns = make("colgroup");
  const head = make("thead");
  const body = make("tbody");
  table.append(columns, head, body);
  space.append(table);
  box.append(space);
  document.getElementById("grid").append(box);
  const note = document.getElementById("cell-note");

  const label = (row, column) => {
    const title = column < FIXED ? ["student", "points"][column] : data.tasks[tasks[column - FIXED]].join(".");
    if (row === 0) return title;
    const student = students[row - 1];
    if (column < FIXED) return `${data.names[student]}: ${data.scores[student]} points`;
    const kind = kindOf(student, tasks[column - FIXED]);
    return `${data.names[student]}, ${title}: ${kind ? `${data.words[kind[0]]}, ${kind[1]} % of the points` : "no result"}`;
  };
  const level = (share) => (share >= 100 ? 5 : share >= 75 ? 4 : share >= 50 ? 3 : share >= 25 ? 2 : share >= 1 ? 1 : 0);
  const PLAIN = new Set(["not_implemented", "skipped", "banned", "grader_error"]);
  const looks = data.kinds.map(([status, share, sign]) => ({
    text: PLAIN.has(status) || status === "passed" ? sign : `${sign}${share}`,
    className: PLAIN.has(status) ? `k-${status}` : `l${level(share)}`,
  }));

  const pattern = make("td");
  const rowOf = (row) => {
    const student = students[row - 1];
    const line = make("tr");
    line.setAttribute("aria-rowindex", row + 1);
    const name = make("th");
    name.scope = "row";
    const link = make("a");
    link.href = data.files[student];
    link.tabIndex = -1;
    link.append(make("bdi", data.names[student]));
    name.append(link);
    line.append(name, make("td", data.scores[student], "total"));
    const codes = data.cells[student];
    for (const task of tasks) {
      const cell = pattern.cloneNode();
      const look = looks[parseInt(codes.substr(2 * task, 2), 36) - 36];
      if (look) {
        cell.textContent = look.text;
        cell.className = look.className;
      }
      line.append(cell);
    }
    return line;
  };

  const heads = () => {
    const line = make("tr");
    line.setAttribute("aria-rowindex", 1);
    ["student", "points", ...tasks.map((task) => data.tasks[task][1])].forEach((title, column) => {
      const cell = make("th");
      cell.scope = "col";
      cell.append(make("span", title, column < FIXED ? "flat" : "turned"));
      if (column >= FIXED) cell.title = label(0, column);
      line.append(cell);
    });
    head.replaceChildren(line);
    columns.replaceChildren(
      ...["name", "sum", ...tasks.map(() => "task")].map((className) => make("col", undefined, className)),
    );
    table.setAttribute("aria-colcount", tasks.length + FIXED);
    const probe = getComputedStyle(document.documentElement).fontSize;
    const narrow = matchMedia("(max-width: 40rem)").matches;
    table.style.width = `${((narrow ? 7 : 12) + 4.5 + 2.4 * tasks.length) * parseFloat(probe)}px`;
    mark();
  };
  const mark = () => {
    [...head.rows[0].cells].forEach((cell, column) => {
      if (column === sorted.column) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  };

  let height = 28;
  const cellAt = (row, column) => (row === 0 ? head.rows[0] : body.rows[row - 1 - first])?.cells[column];
  const tab = () => { // exactly one cell can be reached with the tab key
    for (const old of table.querySelectorAll('[tabindex="0"]')) old.removeAttribute("tabindex");
    const rendered = active.row === 0 || (active.row - 1 >= first && active.row - 1 < first + body.rows.length);
    const cell = cellAt(rendered ? active.row : 0, Math.min(active.column, tasks.length + FIXED - 1));
    if (cell) cell.tabIndex = 0;
  };
  const draw = (all = false) => {
    const view = Math.floor(box.scrollTop / height) - SPARE;
    const from = all ? 0 : Math.max(0, Math.min(view, students.length - 2 * SPARE));
    const to = all ? students.length : Math.min(students.length, Math.ceil((box.scrollTop + box.clientHeight) / height) + SPARE);
    const focused = table.contains(document.activeElement);
    const kept = new Map([...body.rows].map((row) => [row.ariaRowIndex - 2, row]));
    const rows = [];
    for (let row = from; row < to; row += 1) rows.push(kept.get(row) ?? rowOf(row + 1));
    for (const [row, line] of kept) if (row < from || row >= to) line.remove();
    first = from;
    rows.forEach((line, place) => { if (body.rows[place] !== line) body.insertBefore(line, body.rows[place] ?? null); });
    table.style.marginTop = `${from * height}px`;
    tab();
    if (focused && !table.contains(document.activeElement)) table.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  };
  const redraw = () => {
    body.replaceChildren();
    table.setAttribute("aria-rowcount", students.length + 1);
    space.style.height = `${students.length * height + head.offsetHeight}px`;
    box.style.height = `min(70vh, ${students.length * height + head.offsetHeight + 20}px)`;
    if (box.scrollTop > students.length * height) box.scrollTop = 0;
    active = { row: Math.min(active.row, students.length), column: Math.min(active.column, tasks.length + FIXED - 1) };
    draw();
  };

  const choose = () => { // which students, in which order
    students = data.names.map((_, student) => student).filter((student) => words.every((word) => names[student].includes(word)));
    const value = (student) => {
      if (sorted.column === 1) return percent(data.scores[student]);
      return kindOf(student, tasks[sorted.column - FIXED])?.[1] ?? -1;
    };
    const way = sorted.down ? -1 : 1;
    if (sorted.column === 0) students.sort((one, other) => way * order.compare(data.names[one], data.names[other]));
    else {
      const values = new Map(students.map((student) => [student, value(student)]));
      students.sort((one, other) => way * (values.get(one) - values.get(other)));
    }
    redraw();
  };

  const go = (row, column) => {
    active = { row: Math.max(0, Math.min(students.length, row)), column: Math.max(0, Math.min(tasks.length + FIXED - 1, column)) };
    if (active.row > 0) {
      const top = (active.row - 1) * height;
      const room = box.clientHeight - head.offsetHeight - 2 * height;
      if (top < box.scrollTop) box.scrollTop = top;
      if (top > box.scrollTop + room) box.scrollTop = top - room;
      draw();
    }
    tab();
    const cell = cellAt(active.row, active.column);
    cell.setAttribute("aria-label", label(active.row, active.column));
    cell.focus();
    note.textContent = label(active.row, active.column);
  };
  const sortBy = (column) => {
    sorted = { column, down: sorted.column === column ? !sorted.down : column > 0 };
    choice();
    mark();
    choose();
  };
  table.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey) return;
    const page = Math.max(1, Math.floor((box.clientHeight - head.offsetHeight) / height) - 1);
    const { row, column } = active;
    const moves = {
      ArrowDown: [row + 1, column], ArrowUp: [row - 1, column], ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1],
      PageDown: [row + page, column], PageUp: [row - page, column],
      Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? students.length : row, tasks.length + FIXED - 1],
    };
    if (event.key in moves) {
      event.preventDefault();
      go(...moves[event.key]);
    } else if (event.key === "Enter" && row === 0) {
      sortBy(column);
      go(0, column);
    } else if (event.key === "Enter" && column === 0) location.href = data.files[students[row - 1]];
  });
  const placeOf = (cell) => {
    const line = cell.parentNode;
    return [line.parentNode === head ? 0 : line.ariaRowIndex - 1, cell.cellIndex];
  };
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("th, td");
    if (!cell || event.target.closest("a")) return;
    const [row, column] = placeOf(cell);
    if (row === 0) sortBy(column);
    go(row, column);
  });
  table.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("th, td");
    if (cell) note.textContent = label(...placeOf(cell));
  });

  // ---- what is shown, and in which order
  const chosen = document.getElementById("columns");
  const modules = [...new Set(data.tasks.map(([module]) => module))];
  chosen.append(new Option(`all ${data.tasks.length} tasks`, ""), ...modules.map((module) => new Option(module, module)));
  chosen.addEventListener("change", () => {
    tasks = chosen.value ? every.filter((task) => data.tasks[task][0] === chosen.value) : every;
    if (sorted.column >= FIXED) sorted = { column: 0, down: false };
    orders();
    heads();
    choose();
  });
  const ways = document.getElementById("order");
  const orders = () => {
    ways.replaceChildren(
      new Option("name", "0 up"), new Option("points, most first", "1 down"), new Option("points, fewest first", "1 up"),
      ...tasks.map((task, place) => new Option(`${data.tasks[task].join(".")}, fewest first`, `${place + FIXED} up`)),
    );
    choice();
  };
  const choice = () => {
    const wanted = `${sorted.column} ${sorted.down ? "down" : "up"}`;
    if (![...ways.options].some((option) => option.value === wanted)) {
      const title = sorted.column < FIXED ? "name" : data.tasks[tasks[sorted.column - FIXED]].join(".");
      ways.append(new Option(sorted.column ? `${title}, most first` : "name, last first", wanted));
    }
    ways.value = wanted;
  };
  ways.addEventListener("change", () => {
    const [column, way] = ways.value.split(" ");
    sorted = { column: Number(column), down: way === "down" };
    mark();
    choose();
  });
  document.addEventListener("students", (event) => {
    words = event.detail.toLowerCase().split(/\s+/).filter(Boolean);
    choose();
  });

  let asked = 0;
  box.addEventListener("scroll", () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => draw());
  }, { passive: true });
  const measure = () => {
    heads();
    if (students.length) {
      draw();
      height = body.rows[0]?.getBoundingClientRect().height || height;
    }
    redraw();
  };
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) measure(); // a phone's bars change the height alone
    width = innerWidth;
  });

  // ---- paper: all rows, unless they are too many
  const refusal = document.getElementById("no-print");
  addEventListener("beforeprint", () => {
    const many = students.length * tasks.length;
    if (many <= PAPER) draw(true);
    else {
      box.hidden = true;
      refusal.hidden = false;
      refusal.textContent = `The heat map has ${many} cells, too many for paper. Choose a module's columns or search for students, and print again.`;
    }
  });
  addEventListener("afterprint", () => {
    box.hidden = false;
    refusal.hidden = true;
    draw();
  });

  orders();
  heads();
  choose();
  measure();
})();
