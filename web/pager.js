import { element } from "./element.js";

/** Steps through a batch: two arrows, and a slider for a long one. `onturn(k)` shows the k-th. */
export class Pager {
  constructor(onturn) {
    this.onturn = onturn;
    this.slider = element("input", {
      type: "range",
      min: 0,
      "aria-label": "Image of the batch",
      oninput: () => this.turn(Number(this.slider.value)),
    });
    this.place = element("output");
    this.element = element(
      "span",
      { class: "kd-pager" },
      this.#arrow("‹", "Previous image", -1),
      this.slider,
      this.#arrow("›", "Next image", 1),
      this.place,
    );
  }

  /** Begin with a batch of `count` images, at the index of the last batch if it exists. */
  begin(count) {
    this.count = count;
    this.element.hidden = count < 2;
    this.slider.max = count - 1;
    this.turn(Math.min(this.at ?? 0, count - 1));
  }

  turn(k) {
    this.at = (k + this.count) % this.count;
    this.slider.value = this.at;
    this.place.textContent = `${this.at + 1} / ${this.count}`;
    this.onturn(this.at);
  }

  #arrow(sign, label, step) {
    const onclick = () => this.turn(this.at + step);
    return element("button", { type: "button", "aria-label": label, onclick }, sign);
  }
}
