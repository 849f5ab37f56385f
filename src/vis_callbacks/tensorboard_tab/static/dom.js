// Elements. Everything that a run has written goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// A labelled choice; `options` are values, or [value, text].
export function choice(label, options, chosen, pick) {
  const select = el("select", { change: () => pick(select.value) });
  for (const option of options) {
    const [value, text] = Array.isArray(option) ? option : [option, option];
    select.append(el("option", { value, selected: value === chosen }, text));
  }
  return el("label", { class: "choice" }, label, " ", select);
}

// The place, in a rising list of steps, that is nearest to a step; the last one for null.
export function nearest(steps, step) {
  if (step === null) return steps.length - 1;
  let best = 0;
  for (let i = 1; i < steps.length; i++) {
    if (Math.abs(steps[i] - step) <= Math.abs(steps[best] - step)) best = i;
  }
  return best;
}

export function short(value) {
  if (value === null || value === undefined) return "not known";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

export function percent(value) {
  if (value === null || value === undefined) return "not known";
  return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}

export function words(name) {
  return name.replaceAll("_", " ");
}
