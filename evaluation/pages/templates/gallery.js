const list = document.getElementById("cards");
const cards = all(".card", list).map((element, index) => ({ element, ...data.cards[index] }));
const at = (id) => document.getElementById(id);
const make = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });

// A picture is decoded when its card comes near.
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      target.src = target.dataset.src;
      near.unobserve(target);
    }
  },
  { rootMargin: "600px" },
);
all("img.thumb").forEach((image) => near.observe(image));

/** The values of a card for a filter: a run may belong to several sweeps. */
function valuesOf(card, key) {
  return key === "sweep" ? card.sweeps : [card.config[data.varying.indexOf(key)] ?? ""];
}

const texts = cards.map((card) => {
  const settings = data.varying.map((key, n) => `${key}=${card.config[n] ?? ""}`);
  return [card.name, card.place, ...card.sweeps, ...settings, card.element.textContent].join(" ").toLowerCase();
});

let ascending = false;
function arrange() {
  const wanted = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const filters = all(".filter").filter((select) => select.value);
  let shown = 0;
  cards.forEach((card, n) => {
    const fits = wanted.every((word) => texts[n].includes(word))
      && filters.every((select) => valuesOf(card, select.dataset.key).includes(select.value.slice(1)));
    card.element.hidden = !fits;
    shown += fits;
  });
  const figure = data.figures.indexOf(at("sort").value);
  const ordered = [...cards];
  if (figure >= 0) {
    const rank = (card) => card.figures[figure]?.[0];
    // What was not measured stands last in either order.
    ordered.sort((a, b) => {
      const [first, second] = [rank(a), rank(b)];
      if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
      return ascending ? first - second : second - first;
    });
  } else if (ascending) ordered.reverse();
  list.append(...ordered.map((card) => card.element));
  at("count").textContent = `${shown} of ${cards.length} shown`;
}
at("find").addEventListener("input", arrange);
all(".tools select").forEach((select) => select.addEventListener("change", arrange));
document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
at("direction").addEventListener("click", ({ currentTarget }) => {
  ascending = !ascending;
  currentTarget.textContent = ascending ? "↑ lowest first" : "↓ highest first";
  currentTarget.setAttribute("aria-label", `Order: ${ascending ? "lowest" : "highest"} first`);
  arrange();
});

let picked = [];
function pick(card, on) {
  picked = picked.filter((other) => other !== card);
  if (on) picked = [...picked, card].slice(-2);
  for (const each of cards) {
    const chosen = picked.includes(each);
    each.element.toggleAttribute("data-on", chosen);
    each.element.querySelector(".pick input").checked = chosen;
  }
  at("tray").hidden = picked.length === 0;
  at("open").disabled = picked.length < 2;
  at("picked").textContent = picked.map((each) => each.place).join("  and  ") + (picked.length < 2 ? ": choose one more" : "");
}
for (const card of cards) {
  card.element.querySelector(".pick input").addEventListener("change", (event) => pick(card, event.target.checked));
}
at("clear").addEventListener("click", () => cards.forEach((card) => pick(card, false)));
at("close").addEventListener("click", () => at("compare").close());
at("open").addEventListener("click", () => {
  compare(picked);
  at("compare").showModal();
});

/** One seed of a run's sheet: the whole sheet, moved so that one of its images is seen. */
function tile(card, row) {
  const box = make("div"), image = make("img");
  box.className = "tile";
  image.src = card.element.querySelector(".thumb").dataset.src;
  image.alt = `seed ${card.seeds[row]}`;
  image.style.width = `${100 * card.scales.length}%`;
  image.style.height = `${100 * card.seeds.length}%`;
  box.append(image);
  box.show = (scale) => {
    const column = card.scales.indexOf(scale);
    box.toggleAttribute("data-off", column < 0);
    image.style.transform = `translate(${(-100 * column) / card.scales.length}%, ${(-100 * row) / card.seeds.length}%)`;
  };
  return box;
}

function side(card) {
  const root = make("div"), tiles = make("div");
  tiles.className = "tiles";
  const shown = card.seeds.map((_, row) => tile(card, row));
  tiles.append(...shown);
  if (!shown.length) tiles.append(make("p", "no images of its scales at hand"));
  root.append(make("h3", card.place), tiles);
  root.show = (scale) => shown.forEach((each) => each.show(scale));
  return root;
}

const figureText = (figure) => (figure ? `${figure[0].toFixed(2)} [${figure[1].toFixed(2)}, ${figure[2].toFixed(2)}]`.replaceAll("-", MINUS) : "not measured");
const apart = (a, b) => a && b && (a[1] > b[2] || b[1] > a[2]);

function row(name, values, marked, kind) {
  const line = make("tr"), head = make("th", name);
  head.scope = "row";
  line.append(head);
  for (const value of values) {
    const cell = make("td");
    cell.className = kind;
    cell.append(marked ? make("mark", value) : value);
    line.append(cell);
  }
  return line;
}

function compare([first, second]) {
  const sides = [first, second].map(side);
  at("sides").replaceChildren(...sides);
  const scales = [...new Set([...first.scales, ...second.scales])].sort((a, b) => a - b);
  at("control").hidden = scales.length < 2;
  if (scales.length > 1) {
    const fresh = at("range").cloneNode();
    at("range").replaceWith(fresh);
    scaleControl(at("control"), scales, (index, scale) => {
      at("scale").textContent = scaleText(scale);
      sides.forEach((each) => each.show(scale));
    }).set(scales.length - 1);
  }
  for (const id of ["differing", "figures"]) {
    all("thead th", at(id)).slice(1).forEach((head, n) => (head.textContent = [first, second][n].place));
  }
  const text = (value) => value ?? "not set";
  const differing = data.varying.flatMap((key, n) =>
    first.config[n] === second.config[n] ? [] : [row(key, [text(first.config[n]), text(second.config[n])], true, "")]);
  at("differing").tBodies[0].replaceChildren(...(differing.length ? differing : [row("none", ["", ""], false, "")]));
  at("figures").tBodies[0].replaceChildren(...data.figures.flatMap((name, n) => {
    const pair = [first.figures[n], second.figures[n]];
    return pair.some(Boolean) ? [row(name, pair.map(figureText), apart(...pair), "number")] : [];
  }));
}
addEventListener("keydown", (event) => {
  if (event.key === "/" && !typing(event)) {
    event.preventDefault();
    at("find").focus();
  }
});
