import { app } from "../../scripts/app.js";
import { element } from "./element.js";
import { lastResults } from "./history.js";

const WIDTH = 340;

/**
 * A panel inside a node. It appears with the first results, so that a node that has none looks as
 * its workflow was saved. `view` makes `{ element, show(results) }`; `key` names the results in
 * what the node hands to the browser; `kept` finds those that the browser itself kept.
 */
export class Panel {
  constructor(node, { key, view, height, kept = () => null }) {
    this.node = node;
    this.key = key;
    this.makeView = view;
    this.height = height;
    this.kept = kept;
    const before = node.onExecuted;
    node.onExecuted = (output) => {
      before?.call(node, output);
      this.show(output?.[key]);
    };
  }

  show(results) {
    if (!results?.length) return;
    this.view ??= this.#open();
    this.view.show(results);
  }

  /** Show what is remembered of the time before the page was loaded. */
  async restore() {
    const remembered = [await lastResults(this.node, this.key), this.kept(this.node)];
    const [newest] = remembered.filter(Boolean).sort((a, b) => (b[0].time ?? 0) - (a[0].time ?? 0));
    if (!this.view) this.show(newest);
  }

  #open() {
    const view = this.makeView(this.node);
    const frame = element("div", { class: "kd-panel", onwheel: zoomUnlessScrolling }, view.element);
    const widget = this.node.addDOMWidget(`${this.key} panel`, "kosmos", frame, {
      getMinHeight: () => this.height,
      serialize: false,
    });
    widget.serialize = false;
    const [width, height] = this.node.computeSize();
    const size = this.node.size;
    this.node.setSize([Math.max(size[0], width, WIDTH), Math.max(size[1], height)]);
    app.graph.setDirtyCanvas(true, true);
    return view;
  }
}

/** The wheel moves the canvas, unless what is below the pointer can be scrolled. */
function zoomUnlessScrolling(event) {
  const scrollable = event.target.closest(".kd-scroll");
  if (scrollable && scrollable.scrollHeight > scrollable.clientHeight) event.stopPropagation();
  else if (!event.target.closest("[data-node-id]")) app.canvas.processMouseWheel(event);
}
