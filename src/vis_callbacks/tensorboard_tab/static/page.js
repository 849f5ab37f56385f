// The page: runs on the left, one or two of them in full, one choice for both.

import { el } from "./dom.js";
import { RunPanel, howToBegin } from "./run_panel.js";
import { scaleOf } from "./scale.js";

const EVERY = 4000; // milliseconds between two looks at a running training
const SOON = 300; // while a run is still being read
const NOTHING_CHOSEN = { layer: null, step: null, tag: null, metric: null, curve: null, kind: "" };

// Shows runs in `root`. `source` has runs(filter), run(name, version) and picture(run, tag, step).
export function show(root, source) {
  return new Page(root, source);
}

class Page {
  constructor(root, source) {
    Object.assign(this, { source, panels: [], choice: { ...NOTHING_CHOSEN } });
    this.filter = el("input", { type: "search", placeholder: "filter runs", "aria-label": "filter runs by name", input: () => this.listRuns() });
    this.list = el("ul", {});
    this.note = el("p", { class: "hint" });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.stage = el("div", { class: "stage" });
    root.replaceChildren(
      el("div", { class: "health" },
        el("nav", { "aria-label": "runs" }, el("h3", {}, "Runs"), this.filter, this.list, this.note),
        el("main", {}, this.error, this.stage)),
    );
    document.addEventListener("colours", () => this.panels.forEach((panel) => panel.heatMap?.draw()));
    this.begin();
  }

  async begin() {
    const runs = await this.listRuns();
    const worst = ["critical", "warning"].map((level) => runs.find((run) => run.level === level)).find(Boolean) ?? runs[0];
    if (worst) this.select([worst.name]);
    else this.stage.replaceChildren(el("p", { class: "hint" }, "There is no run in the log folder yet. This page looks again by itself."), howToBegin());
    if (this.source.isLive) this.poll();
  }

  async poll() {
    let wait = EVERY;
    if (!document.hidden) {
      const runs = await this.listRuns();
      if (this.panels.length === 0 && runs.length > 0) this.select([runs[0].name]);
      await this.refresh();
      if (this.panels.some((panel) => panel.data && !panel.data.is_complete)) wait = SOON;
    }
    setTimeout(() => this.poll(), wait);
  }

  // Answers null, and says so, where the server does not answer.
  async ask(question) {
    try {
      const answer = await question();
      this.error.hidden = true;
      return answer;
    } catch (error) {
      this.error.textContent = `TensorBoard does not answer: ${error.message}`;
      this.error.hidden = false;
      return null;
    }
  }

  async listRuns() {
    const wanted = this.filter.value;
    const answer = await this.ask(() => this.source.runs(wanted));
    if (!answer || wanted !== this.filter.value) return this.runs ?? [];
    this.runs = answer.runs;
    if (JSON.stringify(answer) !== this.listed) {
      this.listed = JSON.stringify(answer);
      this.showRuns();
    }
    this.note.textContent = answer.num_runs > answer.runs.length ? `${answer.runs.length} of ${answer.num_runs} runs; filter to see others` : "";
    return answer.runs;
  }

  showRuns() {
    const focused = document.activeElement?.dataset?.key;
    const shown = this.panels.map((panel) => panel.name);
    this.list.replaceChildren(
      ...this.runs.map(({ name, level }) => {
        const isShown = shown.includes(name);
        return el("li", { class: isShown ? "shown" : "" },
          el("button", { type: "button", class: "run", "data-key": `run ${name}`, "aria-pressed": String(isShown), title: `${name}: ${level}`, click: () => this.select([name]) },
            el("span", { class: `dot ${level}`, "aria-label": level }), name),
          el("button", { type: "button", class: "beside", "data-key": `beside ${name}`, "aria-label": isShown ? `take ${name} away` : `show ${name} beside`, disabled: isShown && shown.length === 1, click: () => this.beside(name) }, isShown ? "−" : "+"));
      }),
    );
    [...this.list.querySelectorAll("button")].find((button) => button.dataset.key === focused)?.focus();
  }

  beside(name) {
    const shown = this.panels.map((panel) => panel.name);
    this.select(shown.includes(name) ? shown.filter((other) => other !== name) : [shown[0], name]);
  }

  select(names) {
    const known = new Map(this.panels.map((panel) => [panel.name, panel]));
    this.panels = names.map((name) => known.get(name) ?? new RunPanel(name, this));
    this.stage.replaceChildren(...this.panels.map((panel) => panel.element));
    this.stage.classList.toggle("two", names.length > 1);
    if (this.runs) this.showRuns();
    this.refresh();
  }

  async refresh() {
    const panels = this.panels;
    const answers = await Promise.all(panels.map((panel) => this.ask(() => this.source.run(panel.name, panel.data?.version))));
    panels.forEach((panel, i) => {
      if (answers[i] && !answers[i].is_unchanged) panel.show(answers[i]);
      panel.showAge();
    });
    if (answers.some((answer) => answer && !answer.is_unchanged) && panels.length > 1) panels.forEach((panel) => panel.data && panel.compared());
  }

  choose(changes) {
    Object.assign(this.choice, changes);
    for (const panel of this.panels.filter((each) => each.data)) {
      if ("kind" in changes || "metric" in changes) panel.show(panel.data);
      else panel.chosen();
      if ("curve" in changes) panel.showCurves();
    }
  }

  // Of a number of layers, in all runs that are shown.
  scaleOf(metric) {
    return scaleOf(this.panels.map((panel) => panel.data?.metrics[metric]).filter(Boolean));
  }

  // Least and largest value of a curve in all runs that are shown, so that they can be compared.
  boundsOf(tag) {
    const values = this.panels.flatMap((panel) => panel.data?.curves[tag] ?? []).map(([, y]) => y).filter((y) => y !== null);
    return values.length > 0 ? [Math.min(...values), Math.max(...values)] : undefined;
  }
}
