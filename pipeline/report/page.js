"use strict";
(() => {
  const data = document.getElementById("data");
  const { config, charts } = data ? JSON.parse(data.textContent) : { config: {}, charts: {} };
  const drawn = new Set();

  function draw(place) {
    if (drawn.has(place)) return Promise.resolve();
    drawn.add(place);
    const chart = { ...charts[place.dataset.chart], width: "container", autosize: { type: "fit-x", contains: "padding" } };
    // An interpreter in place of compiled expressions: the page's policy lets no text become code.
    const options = { mode: "vega-lite", ast: true, renderer: "svg", actions: false, config };
    return window.vegaEmbed(place, chart, options);
  }

  const places = [...document.querySelectorAll("[data-chart]")];
  const seen = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "300px" },
  );
  places.forEach((place) => seen.observe(place));
  window.addEventListener("beforeprint", () => places.forEach(draw));

  const table = document.getElementById("table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({
    row,
    text: row.textContent.toLowerCase(),
    kinds: row.cells[0].dataset.value.split(", "),
  }));
  const search = document.getElementById("search");
  const kind = document.getElementById("kind");
  const count = document.getElementById("count");

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text, kinds } of rows) {
      row.hidden = !(words.every((word) => text.includes(word)) && (!kind.value || kinds.includes(kind.value)));
      shown += !row.hidden;
    }
    count.value = `${shown} of ${rows.length} rows`;
  }

  function sort(head) {
    const falling = head.getAttribute("aria-sort") === "ascending";
    const column = Number(head.dataset.column);
    const sign = falling ? -1 : 1;
    const value = ({ row }) => row.cells[column].dataset.value;
    rows.sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === "" || right === "") return (left === "") - (right === ""); // what has no value comes last
      return sign * (column ? Number(left) - Number(right) : left < right ? -1 : left > right ? 1 : 0);
    });
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...rows.map(({ row }) => row));
  }

  for (const head of table.querySelectorAll("th[data-column]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  }
  document.getElementById("controls").hidden = false;
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  document.getElementById("open").addEventListener("click", (event) => {
    const open = event.target.textContent === "Open all";
    rows.forEach(({ row }) => { row.querySelector("details").open = open && !row.hidden; });
    event.target.textContent = open ? "Close all" : "Open all";
  });
  filter();
})();
