const zero = data.scales.indexOf(0);
const unit = data.unit === "sd" ? " sd" : "";
const seeds = document.getElementById("seeds");
const words = (name) => name.replaceAll("_", " ");

/** A bar from the origin to its mean, with its interval as a thin line; low and high bound the axis. */
function barRow(curve, low, high, text, main) {
  const row = document.createElement("li");
  const [label, track, value] = ["span", "span", "output"].map((name) => document.createElement(name));
  const [fill, whisker] = ["fill", "whisker"].map((name) => {
    const part = document.createElement("span");
    part.className = name;
    track.append(part);
    return part;
  });
  Object.assign(label, { className: "label", textContent: words(curve.name) });
  track.className = "track";
  value.className = "value";
  row.toggleAttribute("data-main", main);
  row.append(label, track, value);
  const place = (number) => (100 * (number - low)) / (high - low);
  track.style.setProperty("--origin", `${place(0)}%`);
  const span = (part, from, to) => {
    part.style.left = `${place(Math.min(from, to))}%`;
    part.style.width = `${Math.abs(place(to) - place(from))}%`;
  };
  row.show = (index) => {
    const [mean, from, to] = curve.points[index];
    span(fill, 0, mean);
    span(whisker, from, to);
    value.textContent = `${text(mean)} [${text(from)}, ${text(to)}]`;
  };
  return row;
}

const ends = (curves) => curves.flatMap((curve) => curve.points.flat());
const percent = (share) => `${(100 * share).toFixed(0)}`;

function bars(id, curves, low, high, text, main) {
  const rows = curves.map((curve) => barRow(curve, low, high, text, curve === main));
  document.getElementById(id)?.replaceChildren(...rows);
  return rows;
}

const moved = data.unit === "sd" ? [data.target, ...data.others] : data.others;
const rows = [
  ...bars("drift", moved, Math.min(...ends(moved)), Math.max(...ends(moved)), (v) => signed(v), data.target),
  ...bars("flips", data.flips, 0, 1, percent, data.flips[0]),
];

function show(index, scale) {
  const [mean, low, high] = data.target.points[index];
  const effect = scale === 0
    ? "the unedited images"
    : `${words(data.target.name)} ${signed(mean)} [${signed(low)}, ${signed(high)}]${unit}`;
  document.getElementById("scale").textContent = scaleText(scale);
  document.getElementById("effect").textContent = effect;
  document.querySelector(".at").textContent = scaleText(scale);
  const [x, y] = data.dots[index];
  const line = document.getElementById("marker"), dot = document.getElementById("dot");
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  dot.setAttribute("cx", x);
  dot.setAttribute("cy", y);
  rows.forEach((row) => row.show(index));
  all(".own").forEach((output, n) => (output.textContent = signed(data.effects[n][index], 1)));
  if (seeds) showShots(seeds, index);
  return `scale ${scaleText(scale)}, ${effect}`;
}

const control = scaleControl(document.getElementById("control"), data.scales, show);
control.set(data.scales.length - 1);

function compare(holding) {
  if (!seeds) return;
  showShots(seeds, holding ? zero : control.index);
  document.getElementById("hold").setAttribute("aria-pressed", holding);
}
if (seeds) {
  holdable(document.getElementById("hold"), compare);
  holdable(seeds, compare);
}
addEventListener("keydown", (event) => {
  if (typing(event)) return;
  if (event.key === "0") control.set(zero);
  if (event.key === "b") compare(true);
});
addEventListener("keyup", (event) => event.key === "b" && compare(false));
