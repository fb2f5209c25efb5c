"use strict";
// What a browser can add to the page: sorting, a filter, and the figures behind whatever the pointer is on.
{
  const table = document.querySelector("table");
  const tip = document.getElementById("tip");

  // ---- sorting: each heading becomes a button ----
  const heads = table ? [...table.tHead.rows[0].cells] : [];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(head, column));
    head.replaceChildren(button);
  });

  function sort(head, column) {
    const down = head.ariaSort === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const text = (row) => row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => compare(text(a), text(b), down ? -1 : 1));
    body.replaceChildren(...rows);
  }

  function compare(a, b, sign) {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last, either way
    const numbers = [a, b].map(number);
    return sign * (numbers.some(Number.isNaN) ? a.localeCompare(b, "en", { numeric: true }) : numbers[0] - numbers[1]);
  }

  const UNITS = { ns: 1e-9, µs: 1e-6, ms: 1e-3, k: 1e3, M: 1e6, G: 1e9 };

  // "1.2 ms" is 0.0012, "<1%" a little less than 1; NaN is no number.
  function number(text) {
    const found = /^<?([\d.,]+)\s*(ns|µs|ms|s|k|M|G|×|%)?$/.exec(text);
    if (!found) return NaN;
    return Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1) * (text.includes("<") ? 0.99 : 1);
  }

  // ---- filter ----
  const filter = document.querySelector(".filter");
  if (filter) {
    filter.hidden = false;
    filter.querySelector("input").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }

  // ---- the figures behind a bar, a dot or a point: its row of the table ----
  function show(mark, x, y) {
    const row = document.getElementById("r" + mark.dataset.r);
    if (!row) return;
    const texts = [...row.cells].map((cell) => cell.textContent);
    const title = document.createElement("b");
    title.textContent = texts[2];
    const work = document.createElement("p");
    work.textContent = texts[1];
    const list = document.createElement("dl");
    for (let column = 3; column < texts.length; column++) {
      if (!texts[column]) continue;
      const term = document.createElement("dt");
      term.textContent = heads[column].textContent;
      const text = document.createElement("dd");
      text.textContent = texts[column];
      list.append(term, text);
    }
    tip.replaceChildren(title, work, list);
    tip.className = row.className;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + box.height + 24 < innerHeight ? y + 16 : Math.max(8, y - box.height - 12)) + "px";
  }

  function point(event) {
    const mark = event.target.closest?.("[data-r]");
    if (mark) show(mark, event.clientX, event.clientY);
    else tip.hidden = true;
  }

  document.addEventListener("pointermove", point);
  document.addEventListener("click", point);
  document.addEventListener("scroll", () => (tip.hidden = true), { passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
}
