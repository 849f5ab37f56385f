// Layer by step: one row a layer, one column a snapshot; alerts are framed.

import { el, words } from "./dom.js";

// viridis, as in the pictures of the monitors
const COLOURS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];
const AXIS = 20;

function colour(value, scale) {
  const share = (scale.at(value) - scale.low) / (scale.high - scale.low);
  const at = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  const mixed = COLOURS[low].map((part, i) => Math.round(part + (COLOURS[low + 1][i] - part) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

// `table` has steps, layers and rows; `scale` is one of scale.js; `alerts` are those of the run.
// `pick(layer, step)` is called on click and on Enter.
export class HeatMap {
  constructor({ metric, table, scale, alerts, pick }) {
    const { steps, layers, rows } = table;
    Object.assign(this, { steps, layers, metric, rows, scale, alerts, pick });
    this.row = layers.length > 60 ? 14 : 20;
    this.cell = null; // [layer, step] under the mouse or the arrow keys
    this.chosen = { layer: null, step: null };
    this.canvas = el("canvas", {
      tabindex: 0,
      role: "application",
      "aria-label": `${words(metric)} of each layer over the steps; arrow keys move, Enter chooses`,
      pointermove: (event) => this.look(this.cellAt(event)),
      pointerleave: () => this.look(null),
      click: (event) => this.choose(this.cellAt(event)),
      keydown: (event) => this.onKey(event),
    });
    this.says = el("p", { class: "says", "aria-live": "polite" });
    this.tip = el("div", { class: "tip", hidden: true });
    this.names = el(
      "div",
      { class: "names" },
      layers.map((layer) =>
        el("button", { type: "button", title: layer, style: `height:${this.row}px`, click: () => pick(layer, null) }, layer),
      ),
    );
    const field = el("div", { class: "field" }, this.canvas, this.tip);
    this.element = el(
      "div",
      { class: "heat" },
      el("div", { class: "scroll" }, this.names, field),
      el("div", { class: "legend" }, scale.name(scale.low), el("span", { class: "scale" }), scale.name(scale.high),
        el("span", { class: "missing" }), "not known", el("span", { class: "framed" }), "alert"),
      this.says,
    );
    this.colours = rows.map((row) => row.map((value) => (value === null ? null : colour(value, scale))));
    new ResizeObserver(() => this.draw()).observe(field);
    this.look(null);
  }

  choosing(layer, step) {
    this.chosen = { layer, step };
    [...this.names.children].forEach((button, i) => button.setAttribute("aria-pressed", String(this.layers[i] === layer)));
    this.draw();
  }

  column(step) {
    const at = this.steps.findIndex((known) => known >= step);
    return at < 0 ? this.steps.length - 1 : at;
  }

  draw() {
    const [width, height] = [this.canvas.parentElement?.clientWidth ?? 0, this.layers.length * this.row];
    if (width === 0) return;
    Object.assign(this.canvas, { width, height: height + AXIS });
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const wide = width / this.steps.length;
    const gap = wide > 4 ? 1 : 0;
    for (let i = 0; i < this.layers.length; i++) {
      for (let k = 0; k < this.steps.length; k++) {
        pen.fillStyle = this.colours[i][k] ?? style.getPropertyValue("--missing");
        pen.fillRect(k * wide, i * this.row, Math.max(wide - gap, 1), this.row - 1);
      }
    }
    for (const alert of this.alerts) this.frame(pen, alert, wide, style);
    pen.lineWidth = 2;
    pen.strokeStyle = pen.fillStyle = style.color;
    if (this.chosen.step !== null) {
      const at = this.column(this.chosen.step) * wide;
      pen.strokeRect(at, 1, wide, height - 2);
    }
    if (this.cell) pen.strokeRect(this.cell[1] * wide, this.cell[0] * this.row, wide, this.row - 1);
    this.axis(pen, width, height, wide, style);
  }

  frame(pen, alert, wide, style) {
    const own = style.getPropertyValue(`--${alert.severity}`);
    const [start, raised] = [this.column(alert.since), this.column(alert.first_step)];
    const end = alert.state === "resolved" ? this.column(alert.step) : this.steps.length - 1;
    for (const layer of alert.layers) {
      const top = this.layers.indexOf(layer) * this.row;
      if (top < 0) continue;
      for (const [colour, size] of [["#000", 4], [own, 2]]) { // an edge, so that no colour hides it
        pen.strokeStyle = pen.fillStyle = colour;
        pen.lineWidth = size;
        pen.strokeRect(start * wide + 1, top + 1, (end - start + 1) * wide - 2, this.row - 3);
        pen.beginPath();
        pen.arc((raised + 0.5) * wide, top + this.row / 2, 3 + size / 2, 0, 7);
        pen.fill();
      }
    }
  }

  axis(pen, width, height, wide, style) {
    pen.fillStyle = style.getPropertyValue("--soft");
    pen.font = `11px ${style.fontFamily}`;
    const every = Math.ceil(60 / wide);
    for (let k = 0; k < this.steps.length; k += every) {
      pen.textAlign = k === 0 ? "left" : "center";
      const at = k === 0 ? 0 : (k + 0.5) * wide;
      if (at < width - 20) pen.fillText(String(this.steps[k]), at, height + 14);
    }
  }

  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const k = Math.floor(((event.clientX - box.left) / box.width) * this.steps.length);
    const i = Math.floor((event.clientY - box.top) / this.row);
    const isInside = i >= 0 && i < this.layers.length && k >= 0 && k < this.steps.length;
    return isInside ? [i, k] : null;
  }

  choose(cell) {
    if (cell) this.pick(this.layers[cell[0]], this.steps[cell[1]]);
  }

  look(cell) {
    if (String(cell) === String(this.cell) && this.says.textContent) return;
    this.cell = cell;
    this.tip.hidden = cell === null;
    if (cell === null) {
      this.says.textContent = "One row a layer, the first on top; one column a snapshot. Click a cell for the layer's curves and pictures.";
    } else {
      const [i, k] = cell;
      const value = this.scale.say(this.rows[i][k]);
      this.says.textContent = `${this.layers[i]}, step ${this.steps[k]}: ${words(this.metric)} ${value}`;
      this.tip.textContent = `${value} · step ${this.steps[k]}`;
      const left = ((k + 0.5) / this.steps.length) * this.canvas.clientWidth;
      this.tip.style.left = `${Math.min(Math.max(left, 50), this.canvas.clientWidth - 60)}px`;
      this.tip.style.top = `${i < 2 ? (i + 1) * this.row + 6 : i * this.row - 26}px`;
    }
    this.draw();
  }

  onKey(event) {
    if (event.key === "Enter" && this.cell) return this.choose(this.cell);
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [i, k] = this.cell ?? [0, -1];
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    this.look([within(i + move[0], this.layers.length), within(k + move[1], this.steps.length)]);
  }
}
