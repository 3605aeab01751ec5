import { app } from "../../scripts/app.js";
import { element } from "./element.js";
import { lastResults } from "./history.js";

const WIDTH = 340;
/** Pixels that a classic node leaves free above and below a widget, and on its sides. */
const MARGIN = 10;

/**
 * A panel inside a node: without height until the first results, so that a node that has none
 * looks as its workflow was saved. `view` makes `{ element, show(results) }`; `key` names the
 * results in what the node hands to the browser; `kept` finds those that the browser itself kept.
 *
 * Its widget is there from the node's beginning on: a node that Vue draws looks for widgets only
 * until its first link changes.
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
      onpointerdown: holdNode,
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

  /** Show what is remembered of the time before the page was loaded. */
  async restore() {
    const remembered = [this.kept(this.node), await lastResults(this.node, this.key)];
    const [newest] = remembered.filter(Boolean).sort((a, b) => (b[0].time ?? 0) - (a[0].time ?? 0));
    if (!this.view) this.show(newest);
  }

  #open() {
    const view = this.makeView(this.node);
    this.frame.append(view.element);
    this.frame.style.minHeight = `${this.height - 2 * MARGIN}px`;
    const room = this.node.computeSize()[1] + this.height;
    const [width, height] = this.node.size;
    this.node.setSize([Math.max(width, WIDTH), Math.max(height, room)]);
    app.graph.setDirtyCanvas(true, true);
    return view;
  }
}

/** A click or a drag in the panel is the panel's, and does not move the node that Vue draws. */
function holdNode(event) {
  if (event.button === 0) event.stopPropagation();
}

/** The wheel moves the canvas, unless what is below the pointer can be scrolled. */
function zoomUnlessScrolling(event) {
  const scrollable = event.target.closest(".kd-scroll");
  if (scrollable && scrollable.scrollHeight > scrollable.clientHeight) event.stopPropagation();
  else if (!event.target.closest("[data-node-id]")) app.canvas.processMouseWheel(event);
}
