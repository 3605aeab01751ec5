import { caption } from "./caption.js";
import { element, svg } from "./element.js";
import { heat } from "./heat.js";
import { Pager } from "./pager.js";
import { Stage } from "./picture.js";

/** Each picture and its caption; a word that is chosen lays its heat over the picture. */
export function attentionMap() {
  const stage = new Stage();
  const words = element("div", { class: "kd-words" });
  const opacity = element("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.01,
    value: 1,
    oninput: () => stage.drawing.setAttribute("opacity", opacity.value),
  });
  const pager = new Pager(turn);
  const slider = element("label", { class: "kd-opacity" }, "Heat", opacity);
  const bar = element("div", { class: "kd-bar" }, slider, pager.element);
  let results = [];

  function turn(k) {
    const { image, width, height, caption: text, words: maps } = results[k];
    const { element: paragraph, marks } = caption(text, maps, { onchoose: choose });

    function choose(chosen) {
      marks.forEach((mark, m) => mark.setAttribute("aria-pressed", m === chosen));
      stage.drawing.replaceChildren(
        svg("image", {
          class: "kd-heat",
          href: heat(maps[chosen].grid),
          width,
          height,
          preserveAspectRatio: "none",
        }),
      );
    }

    stage.show(image, width, height);
    words.replaceChildren(paragraph);
    if (maps.length) choose(maps.length - 1);
  }

  return {
    element: element("div", { class: "kd-view" }, stage.element, words, bar),
    show(given) {
      results = given;
      pager.begin(results.length);
    },
  };
}
