import { number } from "./chart.js";
import { element } from "./element.js";

const UNITS = ["bytes", "kB", "MB", "GB"];

/** A model before and after it was quantized: what it takes, and how far its outputs moved. */
export function quantized() {
  const what = element("p", { class: "kd-where" });
  const bars = element("div", { class: "kd-bars kd-scroll" });

  function show([{ name, format, layers, left, unit, before, after, moved }]) {
    const linear = `${layers} linear layers quantized, ${left} left alone`;
    what.textContent = `${name} in ${format}: ${layers ? linear : "every weight cast"}`;
    bars.replaceChildren(
      ...pair("in memory", before.memory, after.memory, bytes, "smaller"),
      ...pair("on disk", before.disk, after.disk, bytes, "smaller"),
      ...pair(`time per ${unit}`, before.seconds, after.seconds, seconds, "as fast"),
      element("h4", {}, "How far the outputs moved"),
      ...Object.entries(moved).flatMap(([of, value]) => far(of, value)),
    );
  }

  return { element: element("div", { class: "kd-view" }, what, bars), show };
}

/** Two bars one over the other, and how many times they differ. */
function pair(title, before, after, told, gain) {
  const most = Math.max(before, after) || 1;
  const times = `${number(before / after)} times ${gain}`;
  return [
    element("h4", {}, `${title}: ${times}`),
    bar("before", before / most, told(before)),
    bar("after", after / most, told(after)),
  ];
}

/** A share of all, as a bar; the divergence, in nats, has no whole to be a share of. */
function far(of, value) {
  if (of === "divergence") return [bar(of, null, `${number(value)} nats`)];
  return [bar(of, value, `${number(100 * value)} %`)];
}

function bar(name, share, told) {
  const length = share === null ? [] : [element("i", { style: `width: ${100 * share}%` })];
  return element(
    "div",
    { class: `kd-length kd-${name}` },
    element("span", {}, name),
    element("b", {}, ...length),
    element("output", {}, told),
  );
}

function bytes(count) {
  const power = Math.min(Math.floor(Math.log10(count || 1) / 3), UNITS.length - 1);
  return `${number(count / 1000 ** power)} ${UNITS[power]}`;
}

function seconds(value) {
  return `${number(value)} s`;
}
