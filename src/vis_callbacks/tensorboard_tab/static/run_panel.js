// One run: verdict, alerts, heat map, one layer, pictures, curves.

import { chart } from "./chart.js";
import { choice, el, nearest, words } from "./dom.js";
import { HeatMap } from "./heat_map.js";

const OF_ALL_LAYERS = ["activations/unit_life", "activations/raster"];
const MAX_PICTURES = 8;

export class RunPanel {
  // `page` holds what all panels share: the choice, and where pictures come from.
  constructor(name, page) {
    Object.assign(this, { name, page, data: null, player: null });
    this.element = el("article", { class: "panel", "aria-label": `run ${name}` }, el("p", { class: "hint" }, "Reading the run…"));
  }

  // Takes in what the server says, and builds the page of the run anew.
  show(data) {
    this.data = data;
    this.parts = Object.fromEntries(
      ["head", "alerts", "layers", "layer", "pictures", "curves"].map((part) => [part, el("section", { class: part === "layer" ? "layer-detail" : part })]),
    );
    this.element.replaceChildren(...Object.values(this.parts));
    this.showHead();
    this.showAlerts();
    this.compared();
  }

  // Shows what depends on the other panel too: scales, and what was chosen there.
  compared() {
    this.showLayers();
    this.chosen();
    this.showCurves();
  }

  // The numbers that are known of a layer, by name.
  metricsOf(layer) {
    return Object.keys(this.data.metrics).filter((name) => this.data.metrics[name].layers.includes(layer));
  }

  // Chooses a layer, and a number that is known of it.
  find(layer, step) {
    const known = this.metricsOf(layer);
    this.page.choose({ layer, step, metric: known.includes(this.heatMap.metric) ? this.heatMap.metric : known[0] });
  }

  // Shows the layer, step and picture that were chosen in this panel or in the other one.
  chosen() {
    if (!this.data) return;
    const { layer, step } = this.page.choice;
    this.heatMap?.choosing(layer, step);
    this.showLayer();
    this.showPictures();
  }

  showHead() {
    const { data } = this;
    this.age = el("span", { class: "age" });
    this.parts.head.append(
      el("h2", {}, this.name === "." ? "the log folder itself" : this.name),
      el("p", { class: `verdict ${data.level}`, role: "status" }, data.verdict),
      this.age,
    );
    if (!data.is_complete) this.parts.head.append(el("p", { class: "hint" }, "Still reading; what is shown is not yet all."));
    if (data.problems.length > 0) {
      this.parts.head.append(
        el("details", { class: "problems", open: true }, el("summary", {}, "Not everything could be read"),
          el("ul", {}, data.problems.map((problem) => el("li", {}, problem)))),
      );
    }
    if (data.level === "unwatched") this.parts.head.append(howToBegin());
    this.showAge();
  }

  showAge() {
    if (!this.data?.last_time) return;
    const seconds = Math.max(0, Date.now() / 1000 - this.data.last_time);
    const [size, unit] = seconds < 90 ? [1, "seconds"] : seconds < 5400 ? [60, "minutes"] : seconds < 172800 ? [3600, "hours"] : [86400, "days"];
    this.age.textContent = `last written ${Math.round(seconds / size)} ${unit} ago, at step ${this.data.last_step}`;
  }

  showAlerts() {
    const { alerts, num_alerts } = this.data;
    if (alerts.length === 0) return;
    const { kind } = this.page.choice;
    const kinds = [...new Set(alerts.map((alert) => alert.kind))].sort();
    const shown = alerts.filter((alert) => !kind || alert.kind === kind);
    const remarks = shown.filter((alert) => alert.state === "remark");
    const raised = shown.filter((alert) => alert.state !== "remark");
    this.parts.alerts.append(
      el("div", { class: "bar" }, el("h3", {}, "Alerts"),
        choice("kind", [["", "all"], ...kinds], kinds.includes(kind) ? kind : "", (value) => this.page.choose({ kind: value }))),
      ...raised.map((alert) => this.card(alert)),
    );
    if (raised.length === 0) this.parts.alerts.append(el("p", { class: "hint" }, kind ? "No alert of this kind." : "No alert."));
    if (remarks.length > 0) {
      this.parts.alerts.append(
        el("details", { open: Boolean(kind) },
          el("summary", {}, `${remarks.length} remark${remarks.length > 1 ? "s" : ""}, which are no alerts`),
          remarks.map((alert) => this.card(alert))),
      );
    }
    if (num_alerts > alerts.length) {
      this.parts.alerts.append(el("p", { class: "hint" }, `${alerts.length} of ${num_alerts} are shown, the worst and newest.`));
    }
  }

  card(alert) {
    const where = alert.layers.map((layer) =>
      this.metricsOf(layer).length > 0
        ? el("button", { type: "button", class: "layer", click: () => this.find(layer, alert.step) }, layer)
        : el("span", { class: "layer" }, layer),
    );
    if (alert.num_layers > where.length) where.push(`and ${alert.num_layers - where.length} more`);
    const rows = [
      ["where", where.length > 0 ? where : null],
      ["evidence", alert.evidence.length > 0 ? alert.evidence.map(([name, value]) => el("span", { class: "fact" }, `${words(name)} `, el("b", {}, value))) : null],
      ["could also be", alert.could_be.length > 0 ? alert.could_be.join("; ") : null],
      ["remedy", alert.remedy || null],
    ];
    const state = alert.state === "firing" ? alert.severity : alert.state;
    const when = [`since step ${alert.since}`, `raised at step ${alert.first_step}`];
    if (alert.step !== alert.first_step) when.push(`${state} at step ${alert.step}`);
    return el(
      "div",
      { class: `card ${state}` },
      el("div", { class: "title" }, el("span", { class: "state" }, state), el("b", {}, alert.kind), el("span", { class: "when" }, when.join(", "))),
      el("p", {}, alert.message),
      el("dl", {}, rows.filter(([, value]) => value !== null).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    );
  }

  showLayers() {
    const { data, page } = this;
    const metrics = Object.keys(data.metrics);
    this.heatMap = null;
    if (metrics.length === 0) {
      if (data.level !== "unwatched") {
        this.parts.layers.replaceChildren(el("h3", {}, "Layers"), el("p", { class: "hint" }, "There are no numbers of layers. ActivationMonitor and LearningMonitor write them."));
      }
      return;
    }
    const metric = metrics.includes(page.choice.metric) ? page.choice.metric : metrics[0];
    const table = data.metrics[metric];
    this.heatMap = new HeatMap({
      metric,
      table,
      scale: page.scaleOf(metric),
      alerts: data.alerts.filter((alert) => alert.state !== "remark"),
      pick: (layer, step) => page.choose(step === null ? { layer } : { layer, step }),
    });
    this.parts.layers.replaceChildren(
      el("div", { class: "bar" }, el("h3", {}, "Layers"), choice("number", metrics.map((name) => [name, words(name)]), metric, (value) => page.choose({ metric: value }))),
      this.heatMap.element,
    );
    if (table.num_layers > table.layers.length) {
      this.parts.layers.append(el("p", { class: "hint" }, `${table.layers.length} of ${table.num_layers} layers are shown.`));
    }
  }

  showLayer() {
    const { data, page } = this;
    const { layer, step } = page.choice;
    this.parts.layer.replaceChildren();
    if (layer === null) return;
    const close = el("button", { type: "button", click: () => page.choose({ layer: null }) }, "close");
    this.parts.layer.append(el("div", { class: "bar" }, el("h3", {}, `Layer ${layer}`), close));
    const metrics = this.metricsOf(layer);
    if (metrics.length === 0) {
      this.parts.layer.append(el("p", { class: "hint" }, "This run has no layer of this name."));
      return;
    }
    const marks = data.alerts.filter((alert) => alert.layers.includes(layer) && alert.state !== "remark").map((alert) => alert.first_step);
    const curves = metrics.map((metric) => this.curveOf(metric, layer, marks));
    const own = Object.entries(data.pictures).filter(([, picture]) => picture.layer === layer).map(([tag]) => tag);
    const tags = [...own, ...Object.keys(data.pictures).filter((tag) => OF_ALL_LAYERS.some((end) => tag.endsWith(end)))];
    this.parts.layer.append(el("div", { class: "charts" }, curves));
    if (tags.length > 0) {
      this.parts.layer.append(
        el("h4", {}, step === null ? "Its latest pictures" : `Pictures nearest to step ${step}`),
        el("div", { class: "thumbs" }, tags.slice(0, MAX_PICTURES).map((tag) => this.thumb(tag, step))),
      );
    }
  }

  curveOf(metric, layer, marks) {
    const { steps, layers, rows } = this.data.metrics[metric];
    const scale = this.page.scaleOf(metric);
    const row = rows[layers.indexOf(layer)];
    const points = steps.map((step, k) => [step, row[k]]);
    return chart({ title: words(metric), points, bounds: [scale.low, scale.high], scale, marks, step: this.page.choice.step, width: 250 });
  }

  thumb(tag, step) {
    const { steps } = this.data.pictures[tag];
    const at = steps[nearest(steps, step)];
    return el("button", { type: "button", class: "thumb", click: () => this.enlarge(tag) },
      el("img", { src: this.page.source.picture(this.name, tag, at), alt: `${tag} at step ${at}`, loading: "lazy", load: showTop }),
      el("span", {}, `${tag}, step ${at}`));
  }

  enlarge(tag) {
    this.page.choose({ tag });
    this.parts.pictures.scrollIntoView({ block: "start" });
  }

  // The player stays while steps change, so that its slider can be dragged.
  showPictures() {
    const tags = Object.keys(this.data.pictures);
    if (tags.length === 0) return;
    const tag = tags.includes(this.page.choice.tag) ? this.page.choice.tag : (tags.find((name) => !name.startsWith("overhead")) ?? tags[0]);
    if (this.player?.tag !== tag || !this.parts.pictures.contains(this.player.element)) {
      this.player?.stop();
      this.player = new Player(this, tag);
      this.parts.pictures.replaceChildren(
        el("div", { class: "bar" }, el("h3", {}, "Pictures"), choice("tag", tags, tag, (value) => this.page.choose({ tag: value }))),
        this.player.element,
      );
    }
    this.player.show(this.page.choice.step);
  }

  showCurves() {
    const { data, page } = this;
    const tags = Object.keys(data.curves);
    if (tags.length === 0) return;
    const tag = tags.includes(page.choice.curve) ? page.choice.curve : firstCurve(tags);
    const marks = data.alerts.filter((alert) => alert.state !== "remark").map((alert) => alert.first_step);
    this.parts.curves.replaceChildren(
      el("div", { class: "bar" }, el("h3", {}, "Curves"), choice("tag", tags, tag, (value) => page.choose({ curve: value }))),
      chart({ title: tag, points: data.curves[tag], bounds: page.boundsOf(tag), marks, step: page.choice.step }),
    );
  }
}

// All pictures of a tag, with a slider over their steps.
class Player {
  constructor(panel, tag) {
    Object.assign(this, { panel, tag, at: -1, timer: null });
    const { steps, num_written } = panel.data.pictures[tag];
    this.steps = steps;
    this.count = steps.length === num_written ? `${steps.length}` : `${steps.length} kept of ${num_written}`;
    this.image = el("img", {});
    this.caption = el("p", { class: "says", "aria-live": "polite" });
    this.slider = el("input", { type: "range", min: 0, max: steps.length - 1, step: 1, "aria-label": `step of ${tag}`, input: () => this.go(Number(this.slider.value)) });
    this.button = el("button", { type: "button", click: () => (this.timer ? this.stop() : this.play()) }, "play");
    const arrow = (sign, move, label) => el("button", { type: "button", "aria-label": label, click: () => this.go(this.at + move) }, sign);
    this.element = el("div", { class: "player" },
      el("div", { class: "controls", hidden: steps.length < 2 }, arrow("◀", -1, "picture before"), this.slider, arrow("▶", 1, "next picture"), this.button),
      this.caption, this.image);
  }

  go(place) {
    const at = Math.min(Math.max(place, 0), this.steps.length - 1);
    this.panel.page.choose({ step: this.steps[at], tag: this.tag });
  }

  show(step) {
    const at = nearest(this.steps, step);
    if (at === this.at) return;
    this.at = at;
    this.slider.value = at;
    this.slider.setAttribute("aria-valuetext", `step ${this.steps[at]}`);
    this.image.src = this.panel.page.source.picture(this.panel.name, this.tag, this.steps[at]);
    this.image.alt = `${this.tag} at step ${this.steps[at]}`;
    this.caption.textContent = `step ${this.steps[at]}, picture ${at + 1} of ${this.count}`;
  }

  play() {
    this.button.textContent = "pause";
    this.timer = setInterval(() => {
      if (!this.element.isConnected) return this.stop();
      this.go((this.at + 1) % this.steps.length);
    }, 700);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "play";
  }
}

// Of a film strip, which is tall, a small picture shows the top.
function showTop({ target }) {
  target.classList.toggle("tall", target.naturalHeight > 0.8 * target.naturalWidth);
}

function firstCurve(tags) {
  return [/val.*acc/i, /acc/i, /val.*loss/i, /loss/i].map((sort) => tags.find((tag) => sort.test(tag))).find(Boolean) ?? tags[0];
}

export function howToBegin() {
  return el("div", { class: "begin" },
    el("p", {}, "To see here whether a run is healthy, add the monitors to its Trainer and train:"),
    el("pre", {}, "import vis_callbacks\n\ntrainer = Trainer(callbacks=vis_callbacks.default_monitors())"));
}
