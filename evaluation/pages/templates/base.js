"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const MINUS = "\u2212";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** A number with its sign; what rounds to nothing has none. */
function signed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? MINUS : "+") + text;
}
const scaleText = (scale) => (scale === 0 ? "0" : (scale < 0 ? MINUS : "+") + Math.abs(scale));

/** A range input over measured scales: it snaps to them, whether moved by pointer, finger or keys. */
function scaleControl(root, scales, onChange) {
  const input = root.querySelector("input"), ticks = root.querySelector(".ticks");
  const first = scales[0], last = scales[scales.length - 1];
  Object.assign(input, { min: first, max: last, step: "any" });
  const labels = scales.map((scale) => {
    const label = document.createElement("span");
    label.textContent = scaleText(scale);
    label.style.left = `${(100 * (scale - first)) / (last - first)}%`;
    return label;
  });
  ticks.replaceChildren(...labels);
  const control = { input, index: -1, set };

  function set(index) {
    control.index = Math.max(0, Math.min(scales.length - 1, index));
    const scale = scales[control.index];
    input.value = scale;
    labels.forEach((label, number) => label.toggleAttribute("data-on", number === control.index));
    input.setAttribute("aria-valuetext", onChange(control.index, scale) || `scale ${scaleText(scale)}`);
  }
  const nearest = (value) =>
    scales.reduce((best, scale, n) => (Math.abs(scale - value) < Math.abs(scales[best] - value) ? n : best), 0);
  const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -1, PageUp: 1 };

  input.addEventListener("input", () => set(nearest(Number(input.value))));
  input.addEventListener("keydown", (event) => {
    const target = { Home: 0, End: scales.length - 1, 0: scales.indexOf(0) }[event.key];
    const index = event.key in moves ? control.index + moves[event.key] : target;
    if (index === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(index);
  });
  return control;
}

/** Shows the picture of one scale in every stack of pictures below `root`. */
function showShots(root, index) {
  for (const stack of all(".shots", root)) {
    all("img", stack).forEach((image) => image.toggleAttribute("data-on", Number(image.dataset.index) === index));
  }
}

/** Calls `onHold(true)` while a pointer or a key is held on an element, and `onHold(false)` after. */
function holdable(element, onHold) {
  let holding = false;
  const turn = (on) => on !== holding && onHold((holding = on));
  const end = () => turn(false);
  element.addEventListener("pointerdown", (event) => event.button === 0 && turn(true));
  for (const name of ["pointerup", "pointercancel", "pointerleave", "blur"]) element.addEventListener(name, end);
  element.addEventListener("contextmenu", (event) => event.pointerType === "touch" && event.preventDefault());
  element.addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      turn(true);
    }
  });
  element.addEventListener("keyup", end);
}

/** Whether keys belong to what is being written or chosen, not to the page. */
const typing = (event) =>
  event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select, textarea");

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

for (const button of all(".copy")) {
  button.addEventListener("click", async () => {
    await copyText(button.parentElement.querySelector("pre").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

// The choice lives as long as the page: a file has no storage of its own.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open])");
  closed.forEach((element) => (element.open = true));
});
addEventListener("afterprint", () => closed.forEach((element) => (element.open = false)));
