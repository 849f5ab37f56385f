// How the numbers of layers become places on a scale, and words.

import { percent, short } from "./dom.js";

// `at(value)` is a place between `low` and `high`; `say(value)` and `name(place)` are texts.
const SHARES = { low: 0, high: 1, at: (value) => value, name: percent, say: percent };

export const AS_IT_IS = { at: (value) => value, name: short, say: short };

// The scale of some tables, {scale, rows}, which are to be compared.
export function scaleOf(tables) {
  if (tables.every((table) => table.scale !== "power")) return SHARES;
  let [low, high] = [Infinity, -Infinity];
  for (const value of tables.flatMap((table) => table.rows).flat()) {
    if (!(value > 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  low = low === Infinity ? 0 : Math.floor(Math.log10(low));
  high = high === -Infinity ? 1 : Math.max(Math.ceil(Math.log10(high)), low + 1);
  const at = (value) => (value > 0 ? Math.log10(value) : low); // a 0 lies at the bottom
  return { low, high, at, name: (place) => short(10 ** place).replace(".00e", "e"), say: short };
}
