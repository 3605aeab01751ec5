import { app } from "../../scripts/app.js";
import { element } from "./element.js";
import { lastResults } from "./history.js";

const WIDTH = 340;
/** Pixels that a classic node leaves free above and below a widget, and on its sides. */
const MARGIN = 10;

/**
 * A panel inside a node: without height until the first results, so that a node without results
 * keeps its saved size. `view` makes `{ element, show(results) }`; `key` is the results' key in the
 * node's `ui`; `kept` returns results from the browser's storage.
 *
 * The widget is added when the node is created: Vue nodes read widgets only until their first link
 * changes.
 */
export class Panel {
  constructor(node, { key, view, height, kept = () => null }) {
    this.node = node;
    this.key = key;
    this.makeView = view;
    this.height = height;
    this.kept = kept;
    this.frame = element("div", {
      class: "kd-panel",
      onwheel: zoomUnlessScrolling,
      onpointerdown: keepPointer,
    });
    const widget = node.addDOMWidget(`${key} panel`, "kosmos", this.frame, {
      getMinHeight: () => (this.view ? height : 0),
      getMaxHeight: () => (this.view ? undefined : 0),
      hideOnZoom: false,
      margin: MARGIN,
      serialize: false,
    });
    widget.serialize = false;
    const before = node.onExecuted;
    node.onExecuted = (output) => {
      before?.call(node, output);
      this.show(output?.[key]);
    };
  }

  show(results) {
    if (!results?.length) return;
    this.view ??= this.#open();
    this.results = results;
    this.view.show(results);
  }

  /** Show results from before the page was loaded. */
  async restore() {
    const stored = [this.kept(this.node), await lastResults(this.node, this.key)];
    const [newest] = stored.filter(Boolean).sort((a, b) => (b[0].time ?? 0) - (a[0].time ?? 0));
    if (!this.view) this.show(newest);
  }

  #open() {
    const view = this.makeView(this.node);
    this.frame.append(view.element);
    this.frame.style.minHeight = `${this.height - 2 * MARGIN}px`;
    const needed = this.node.computeSize()[1] + this.height;
    const [width, height] = this.node.size;
    this.node.setSize([Math.max(width, WIDTH), Math.max(height, needed)]);
    app.graph.setDirtyCanvas(true, true);
    return view;
  }
}

/** A click or a drag in the panel does not move a Vue node. */
function keepPointer(event) {
  if (event.button === 0) event.stopPropagation();
}

/** The wheel moves the canvas, unless the element under the pointer scrolls. */
function zoomUnlessScrolling(event) {
  const scrollable = event.target.closest(".kd-scroll");
  if (scrollable && scrollable.scrollHeight > scrollable.clientHeight) event.stopPropagation();
  else if (!event.target.closest("[data-node-id]")) app.canvas.processMouseWheel(event);
}
