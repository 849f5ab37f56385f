// The tab within TensorBoard, which loads this module and calls `render`.

import { show } from "./page.js";

const here = (path, query = {}) => {
  const url = new URL(path, import.meta.url);
  Object.entries(query).forEach(([name, value]) => url.searchParams.set(name, value));
  return url.href;
};

async function json(path, query) {
  const answer = await fetch(here(path, query));
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

const server = {
  isLive: true,
  runs: (filter) => json("runs", { filter }),
  run: (run, version = "") => json("run", { run, version }),
  picture: (run, tag, step) => here("picture", { run, tag, step }),
};

// TensorBoard's own switch, which is on the page around this one.
function followDarkMode() {
  const host = window.parent.document.body;
  const follow = () => {
    document.documentElement.classList.toggle("dark", host.classList.contains("dark-mode"));
    document.dispatchEvent(new Event("colours"));
  };
  new MutationObserver(follow).observe(host, { attributes: true, attributeFilter: ["class"] });
  follow();
}

export function render() {
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: here("style.css") });
  style.addEventListener("load", () => show(document.body, server));
  document.documentElement.lang = "en";
  document.head.append(style);
  followDarkMode();
}
