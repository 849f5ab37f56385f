// A curve over the steps, with its values on hover and under the arrow keys.

import { el, nearest, svg } from "./dom.js";
import { AS_IT_IS } from "./scale.js";

const HEIGHT = 110;
const LEFT = 52;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 18;

// `bounds` are the ends of `scale` where several charts share them. `width` is about that on the
// screen, so that the text has its size. `marks` are steps of alerts.
export function chart({ title, points, bounds, marks = [], step = null, scale = AS_IT_IS, width = 560 }) {
  const known = points.filter(([, y]) => y !== null);
  if (known.length === 0) return el("figure", { class: "chart" }, el("figcaption", {}, `${title}: no finite value`));
  const steps = known.map(([x]) => x);
  const values = known.map(([, y]) => scale.at(y));
  let [low, high] = bounds ?? [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - (0.1 * Math.abs(low) || 1), high + (0.1 * Math.abs(high) || 1)];
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const x = (at) => LEFT + ((width - LEFT - RIGHT) * (at - first)) / Math.max(1, last - first);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)); // of a place on the scale

  const caption = el("figcaption", {});
  const cursor = svg("circle", { r: 4, class: "cursor" });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, tabindex: 0, role: "img", "aria-label": `${title}; the arrow keys read values` },
    [low, high].map((value) => [
      svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, scale.name(value)),
    ]),
    marks
      .filter((at) => at >= first && at <= last)
      .map((at) => svg("line", { x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM, class: "mark" })),
    svg("text", { x: LEFT, y: HEIGHT - 3 }, String(first)),
    svg("text", { x: width - RIGHT, y: HEIGHT - 3, "text-anchor": "end" }, `step ${last}`),
    pieces(points).map((piece) =>
      piece.length === 1
        ? svg("circle", { cx: x(piece[0][0]), cy: y(scale.at(piece[0][1])), r: 2, class: "point" })
        : svg("polyline", { points: piece.map(([a, b]) => `${x(a)},${y(scale.at(b))}`).join(" "), class: "line" }),
    ),
    cursor,
  );
  let place = 0;
  const show = (at) => {
    place = Math.min(Math.max(at, 0), known.length - 1);
    const [a, b] = known[place];
    cursor.setAttribute("cx", x(a));
    cursor.setAttribute("cy", y(scale.at(b)));
    caption.textContent = `${title}: ${scale.say(b)} at step ${a}`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    show(nearest(steps, first + ((at - LEFT) / (width - LEFT - RIGHT)) * (last - first)));
  });
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(place + move);
  });
  show(nearest(steps, step));
  return el("figure", { class: "chart" }, caption, picture);
}

// The parts of a curve between values that are not known.
function pieces(points) {
  const found = [[]];
  for (const point of points) {
    if (point[1] === null) found.push([]);
    else found[found.length - 1].push(point);
  }
  return found.filter((piece) => piece.length > 0);
}
