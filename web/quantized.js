import { number } from "./chart.js";
import { element } from "./element.js";

const UNITS = ["bytes", "kB", "MB", "GB"];

/** A model before and after quantization: memory, time and changes of its outputs. */
export function quantized() {
  const what = element("p", { class: "kd-where" });
  const bars = element("div", { class: "kd-bars kd-scroll" });

  function show([{ name, format, layers, left, unit, before, after, moved }]) {
    const linear = `${layers} linear layers quantized, ${left} not quantized`;
    what.textContent = `${name} in ${format}: ${layers ? linear : "all weights cast"}`;
    bars.replaceChildren(
      ...pair("in memory", before.memory, after.memory, bytes, "smaller"),
      ...pair("on disk", before.disk, after.disk, bytes, "smaller"),
      ...pair(`time per ${unit}`, before.seconds, after.seconds, seconds, "as fast"),
      element("h4", {}, "How much the outputs changed"),
      ...Object.entries(moved).flatMap(([of, value]) => change(of, value)),
    );
  }

  return { element: element("div", { class: "kd-view" }, what, bars), show };
}

/** Two bars and their ratio. */
function pair(title, before, after, format, gain) {
  const most = Math.max(before, after) || 1;
  const times = `${number(before / after)} times ${gain}`;
  return [
    element("h4", {}, `${title}: ${times}`),
    bar("before", before / most, format(before)),
    bar("after", after / most, format(after)),
  ];
}

/** A share (0..1) as a bar; the divergence is a number in nats. */
function change(of, value) {
  if (of === "divergence") return [bar(of, null, `${number(value)} nats`)];
  return [bar(of, value, `${number(100 * value)} %`)];
}

function bar(name, share, text) {
  const length = share === null ? [] : [element("i", { style: `width: ${100 * share}%` })];
  return element(
    "div",
    { class: `kd-length kd-${name}` },
    element("span", {}, name),
    element("b", {}, ...length),
    element("output", {}, text),
  );
}

function bytes(count) {
  const power = Math.min(Math.floor(Math.log10(count || 1) / 3), UNITS.length - 1);
  return `${number(count / 1000 ** power)} ${UNITS[power]}`;
}

function seconds(value) {
  return `${number(value)} s`;
}
