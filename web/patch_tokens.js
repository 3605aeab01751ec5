import { element, svg } from "./element.js";
import { bytes, OPACITY, heat } from "./heat.js";
import { Pager } from "./pager.js";
import { Stage } from "./stage.js";

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/**
 * Each image with a heatmap of the patch similarities; a patch that is clicked, or reached by the
 * arrow keys, shows its own similarities and sets the node's widgets for the next run.
 */
export function patchTokens(node) {
  const stage = new Stage({
    tabindex: 0,
    role: "group",
    "aria-label": "Patches; click one, or go from one to the next with the arrow keys",
    onclick: point,
    onkeydown: press,
  });
  const label = element("output", { "aria-live": "polite" });
  const back = element("button", { type: "button", onclick: () => show(null) }, "Back");
  const pager = new Pager(() => show(null));
  let results = [];
  let chosen = null;

  /** Draw the similarities of a patch [row, column], or the node's result. */
  function show(patch) {
    const { image, width, height, to, grid, alike } = results[pager.at];
    const side = grid.length;
    chosen = patch;
    back.hidden = !patch;
    label.textContent = patch ? `similar to the patch in row ${patch[0]}, column ${patch[1]}` : `similar to ${to}`;
    const first = patch && (patch[0] * side + patch[1]) * side * side;
    const values = patch ? bytes(alike).slice(first, first + side * side) : grid.flat();
    const attributes = { class: "kd-heat", href: heat(values, side, OPACITY), width, height };
    stage.show(image, width, height);
    stage.drawing.append(svg("image", { ...attributes, preserveAspectRatio: "none" }));
    if (!patch) return;
    const [high, wide] = [height / side, width / side];
    const place = { x: patch[1] * wide, y: patch[0] * high, width: wide, height: high };
    stage.drawing.append(svg("rect", { class: "kd-cursor", ...place }));
  }

  function choose(row, column) {
    const { grid, alike } = results[pager.at];
    if (!alike || grid[row]?.[column] === undefined) return;
    show([row, column]);
    for (const [name, value] of Object.entries({ compare_with: "patch", row, column })) {
      const widget = node.widgets.find((one) => one.name === name);
      if (!widget) continue;
      widget.value = value;
      widget.callback?.(value);
    }
  }

  function point({ clientX, clientY }) {
    const box = stage.drawing.firstChild.getBoundingClientRect();
    const side = results[pager.at].grid.length;
    const row = Math.floor(((clientY - box.top) / box.height) * side);
    choose(row, Math.floor(((clientX - box.left) / box.width) * side));
  }

  function press(event) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = chosen ?? [0, 0];
    if (chosen) choose(row + step[0], column + step[1]);
    else choose(row, column);
  }

  const bar = element("div", { class: "kd-bar" }, label, back, pager.element);
  return {
    element: element("div", { class: "kd-view" }, stage.element, bar),
    show(batch) {
      results = batch;
      pager.begin(results.length);
    },
  };
}
