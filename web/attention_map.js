import { caption } from "./caption.js";
import { element, svg } from "./element.js";
import { bytes, OPACITY, heat } from "./heat.js";
import { Pager } from "./pager.js";
import { Stage } from "./stage.js";

/** Each image and its caption; the heatmap of the chosen word is drawn over the image. */
export function attentionMap() {
  const stage = new Stage();
  const words = element("div", { class: "kd-words" });
  const opacity = slider({ max: 1, step: 0.01, value: 1 }, () =>
    stage.drawing.setAttribute("opacity", opacity.value),
  );
  const layer = slider({ max: 0, value: 0 }, draw);
  const layerName = element("output");
  const layers = element("label", { class: "kd-slider" }, "Layer", layer, layerName);
  const pager = new Pager(turn);
  const sliders = [element("label", { class: "kd-slider" }, "Heat", opacity), layers];
  const bar = element("div", { class: "kd-bar" }, ...sliders, pager.element);
  let results = [];
  let word = null;

  function turn(k) {
    const { image, width, height, caption: text, words: maps } = results[k];
    const { element: paragraph, marks } = caption(text, maps, { onchoose: choose });

    function choose(chosen) {
      marks.forEach((mark, m) => mark.setAttribute("aria-pressed", m === chosen));
      word = maps[chosen];
      layers.hidden = !word.layers.length;
      layer.max = word.layers.length;
      draw();
    }

    stage.show(image, width, height);
    words.replaceChildren(paragraph);
    if (maps.length) choose(maps.length - 1);
  }

  /** Draw the heatmap of the chosen word: of all layers, or of the chosen one. */
  function draw() {
    const { width, height, layers: numbers } = results[pager.at];
    const k = Number(layer.value) - 1;
    layerName.textContent = k < 0 ? "all" : numbers[k];
    const values = k < 0 ? word.grid.flat() : bytes(word.layers[k]);
    const href = heat(values, word.grid[0].length, OPACITY);
    const attributes = { class: "kd-heat", href, width, height, preserveAspectRatio: "none" };
    stage.drawing.replaceChildren(svg("image", attributes));
  }

  return {
    element: element("div", { class: "kd-view" }, stage.element, words, bar),
    show(batch) {
      results = batch;
      pager.begin(results.length);
    },
  };
}

function slider(limits, oninput) {
  return element("input", { type: "range", min: 0, ...limits, oninput });
}
