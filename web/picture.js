import { api } from "../../scripts/api.js";
import { svg } from "./element.js";

/** The address of a picture that a node left in one of ComfyUI's folders. */
export function addressOf({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/** A picture to draw on: a stage whose units are the picture's pixels. */
export class Stage {
  constructor(attributes = {}) {
    this.picture = svg("image", { width: "100%", height: "100%" });
    this.drawing = svg("g");
    const all = { class: "kd-stage", ...attributes };
    this.element = svg("svg", all, this.picture, this.drawing);
  }

  /** Show a picture of so many pixels, and nothing drawn on it yet. */
  show(picture, width, height) {
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.picture.setAttribute("href", addressOf(picture));
    this.drawing.replaceChildren();
  }
}
