"use strict";
(() => {
  const table = document.getElementById("models");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, words: row.textContent.toLowerCase() }));
  const form = document.querySelector("form.filters");
  const [words, status, changed, shown] = ["words", "status", "changed", "shown"].map((id) => document.getElementById(id));
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const item of rows) {
      const fits =
        (!status.value || item.row.dataset.status === status.value) &&
        (!changed.checked || "changed" in item.row.dataset) &&
        wanted.every((word) => item.words.includes(word));
      item.row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length}`;
  };
  const sort = (column, head) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const number = head.dataset.kind === "number";
    const key = ({ row }) => row.cells[column].dataset.sort;
    const compare = number
      ? (one, other) => Number(key(one)) - Number(key(other))
      : (one, other) => key(one).localeCompare(key(other), "en");
    rows.sort((one, other) => (down ? -1 : 1) * compare(one, other));
    body.append(...rows.map(({ row }) => row));
  };
  Array.from(table.tHead.rows[0].cells, (head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column, head));
    head.replaceChildren(button);
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
})();
