import { lossCurve, number } from "./chart.js";
import { element } from "./element.js";
import { rootGraph } from "./graph.js";
import { addressOf } from "./stage.js";

/**
 * A training run: its step, loss curve, newest sample image and the scores of its checkpoints.
 *
 * The last state is stored in the browser, because a cancelled run has no results in the history.
 */
export function training(node) {
  const where = element("p", { class: "kd-where", "aria-live": "polite" });
  const bar = element("progress");
  const curve = element("div");
  const facts = element("dl", { class: "kd-facts" });
  const sample = element("img", { class: "kd-sample", hidden: "" });
  const below = element("div", { class: "kd-below" }, facts, sample);
  const checkpoints = element("div", { class: "kd-checkpoints kd-scroll" });

  return {
    element: element("div", { class: "kd-view" }, where, bar, curve, below, checkpoints),
    show([run]) {
      keep(node, { ...run, speed: null, seconds_left: null });
      where.textContent = `${run.name}: step ${run.step} of ${run.steps}, ${run.state}`;
      bar.max = run.steps;
      bar.value = run.step;
      curve.replaceChildren(...(run.loss.length ? [lossCurve(run.loss, run.steps)] : []));
      facts.replaceChildren(...factsOf(run));
      checkpoints.replaceChildren(...scoreTable(run));
      sample.hidden = !run.sample;
      if (!run.sample) return;
      const source = addressOf(run.sample);
      if (sample.getAttribute("src") !== source) sample.src = source;
      sample.alt = sample.title = `Generated at step ${run.sample_step}`;
    },
  };
}

/** Store a run in the browser, unless its quota is used up (also by workflows). */
function keep(node, run) {
  try {
    localStorage.setItem(place(node), JSON.stringify(run));
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
  }
}

/** The last stored run of this node. */
export function lastShown(node) {
  const kept = localStorage.getItem(place(node));
  return kept && [JSON.parse(kept)];
}

function place(node) {
  return `kosmos_dreambooth.training.${(node.graph ?? rootGraph()).id}.${node.id}`;
}

function factsOf({ loss, rate, speed, seconds_left: left }) {
  const facts = [
    ["loss", loss.length && number(loss.at(-1)[1])],
    ["learning rate", rate && number(rate)],
    ["speed", speed && `${number(speed)} steps/s`],
    ["time left", left && clock(left)],
  ];
  return facts
    .filter(([, value]) => value)
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** A table of the checkpoints' scores: deleted ones are faint, the best is marked. */
function scoreTable({ checkpoints, best }) {
  if (!checkpoints?.length) return [];
  const { step, kept, ...scores } = Object.assign({}, ...checkpoints);
  const names = Object.keys(scores);
  const row = (cell, values, attributes = {}) =>
    element("tr", attributes, ...values.map((value) => element(cell, {}, value)));
  const rows = checkpoints.map((one) =>
    row(
      "td",
      [
        one.step === best ? `★ ${one.step}` : String(one.step),
        ...names.map((name) => (name in one ? one[name].toFixed(3) : "")),
      ],
      { class: one.kept ? "" : "kd-gone", title: one.kept ? "" : "This checkpoint was deleted." },
    ),
  );
  return [element("table", {}, row("th", ["checkpoint", ...names]), ...rows)];
}

function clock(seconds) {
  const parts = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  return parts.map((part, k) => (k ? String(part).padStart(2, "0") : part)).join(":");
}
