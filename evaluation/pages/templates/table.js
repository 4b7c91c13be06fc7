const body = document.getElementById("table").tBodies[0];
const original = [...body.rows];
const heads = all("#table thead th");

/** Sorts by a column: numbers by size, texts by their letters, what has no figure last; `way` 0 is the first order. */
function sortBy(column, way) {
  heads.forEach((head, n) => head.setAttribute("aria-sort", n === column && way ? (way > 0 ? "ascending" : "descending") : "none"));
  const key = (row) => row.cells[column].dataset.key;
  const number = (row) => (key(row) === "" ? NaN : Number(key(row)));
  const numeric = original.some((row) => !Number.isNaN(number(row)));
  const rows = [...original];
  if (way) {
    rows.sort((a, b) => {
      if (!numeric) return way * key(a).localeCompare(key(b));
      const [first, second] = [number(a), number(b)];
      if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
      return way * (first - second);
    });
  }
  body.toggleAttribute("data-sorted", way !== 0);
  body.append(...rows);
}
heads.forEach((head, column) => {
  const next = { none: -1, descending: 1, ascending: 0 };
  head.querySelector("button").addEventListener("click", () => sortBy(column, next[head.getAttribute("aria-sort")]));
});

all(".images").forEach((section, number) => {
  const output = section.querySelector("output");
  const scales = data.images[number].scales;
  scaleControl(section.querySelector(".control"), scales, (index, scale) => {
    output.textContent = scaleText(scale);
    all(".shots img", section).forEach((image) => image.toggleAttribute("data-on", Number(image.dataset.scale) === scale));
  }).set(scales.length - 1);
});
