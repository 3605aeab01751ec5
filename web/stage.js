import { api } from "../../scripts/api.js";
import { svg } from "./element.js";

/** The URL of an image file in one of ComfyUI's folders. */
export function addressOf({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/** An SVG with an image and drawings over it, in pixels of the image. */
export class Stage {
  constructor(attributes = {}) {
    this.image = svg("image", { width: "100%", height: "100%" });
    this.drawing = svg("g");
    const all = { class: "kd-stage", ...attributes };
    this.element = svg("svg", all, this.image, this.drawing);
  }

  /** Show an image of `width` x `height` pixels without drawings. */
  show(image, width, height) {
    this.element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.image.setAttribute("href", addressOf(image));
    this.drawing.replaceChildren();
  }
}
