import { caption } from "./caption.js";
import { copy } from "./clipboard.js";
import { element, svg } from "./element.js";
import { Pager } from "./pager.js";
import { Stage } from "./stage.js";

/** As in drawing/boxes.py: the colours of Okabe and Ito. */
const PALETTE = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"];
const COPIED_MS = 1200;

/** Each image with its boxes and the caption below; pointing at a phrase or box highlights both. */
export function groundedCaption() {
  const stage = new Stage();
  const words = element("div", { class: "kd-words" });
  const button = element("button", { type: "button", onclick: copyCaption }, "Copy caption");
  const pager = new Pager(turn);
  const bar = element("div", { class: "kd-bar" }, button, pager.element);
  let results = [];

  function turn(k) {
    const { image, width, height, caption: text, phrases } = results[k];
    const grounded = phrases.filter((phrase) => phrase.boxes.length);
    const pieces = grounded.map(({ start, end }, p) => ({
      start,
      end,
      colour: PALETTE[p % PALETTE.length],
    }));
    const { element: paragraph, marks } = caption(text, pieces, { onpoint: light });
    const boxes = grounded.flatMap(({ boxes }, p) =>
      boxes.map((box) => ({ p, area: area(box), drawn: draw(box, pieces[p].colour, p) })),
    );
    boxes.sort((one, other) => other.area - one.area); // small boxes on top

    function draw([x0, y0, x1, y1], colour, p) {
      const title = svg("title", {}, grounded[p].text);
      const place = {
        x: x0 * width,
        y: y0 * height,
        width: (x1 - x0) * width,
        height: (y1 - y0) * height,
      };
      const listeners = { onpointerenter: () => light(p), onpointerleave: () => light(null) };
      const style = `--kd-colour: ${colour}`;
      return svg("rect", { class: "kd-box", style, ...place, ...listeners }, title);
    }

    function light(lit) {
      marks.forEach((mark, p) => mark.classList.toggle("kd-lit", p === lit));
      for (const { p, drawn } of boxes) {
        drawn.classList.toggle("kd-lit", p === lit);
        drawn.classList.toggle("kd-dim", lit !== null && p !== lit);
      }
    }

    stage.show(image, width, height);
    stage.drawing.append(...boxes.map(({ drawn }) => drawn));
    words.replaceChildren(paragraph);
  }

  async function copyCaption() {
    await copy(results[pager.at].caption);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy caption"), COPIED_MS);
  }

  return {
    element: element("div", { class: "kd-view" }, stage.element, words, bar),
    show(batch) {
      results = batch;
      pager.begin(results.length);
    },
  };
}

function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}
