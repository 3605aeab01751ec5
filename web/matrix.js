import { number } from "./chart.js";
import { element, svg } from "./element.js";
import { heat, inkOn } from "./heat.js";
import { addressOf } from "./stage.js";

const CELL = 40;
const MAX_NUMBERS = 10;
const MAX_THUMBNAILS = 24;

/** A similarity matrix, with the details of the pair under the pointer or chosen by keys. */
export function matrix() {
  const stage = svg("svg", {
    class: "kd-stage kd-matrix",
    tabindex: 0,
    role: "group",
    "aria-label": "Similarities; arrow keys go from pair to pair",
    onpointermove: follow,
    onkeydown: press,
  });
  const details = element("p", { class: "kd-details kd-scroll", "aria-live": "polite" });
  const pair = element("div", { class: "kd-pair" });
  const below = element("div", { class: "kd-bar" }, details, pair);
  let compared = null;
  let cells = null;
  let cursor = null;
  let place = [0, 0];

  function show([results]) {
    compared = results;
    const { values, rows, columns } = results;
    const [height, width] = [values.length, values[0].length];
    const left = hasThumbnails(rows) ? CELL : 0;
    const top = hasThumbnails(columns) ? CELL : 0;
    const size = { width: width * CELL, height: height * CELL };
    const href = heat(values.flat(), width);
    cells = svg("image", { class: "kd-cells", href, ...size, preserveAspectRatio: "none" });
    cursor = framed("kd-cursor", 0, 0);
    const best = values.map((row, k) => framed("kd-best", k, row.indexOf(Math.max(...row))));
    stage.setAttribute("viewBox", `${-left} ${-top} ${left + size.width} ${top + size.height}`);
    const heads = [
      ...(left ? values.map((_, k) => thumbnail(rows, k, { x: -CELL, y: k * CELL })) : []),
      ...(top ? values[0].map((_, k) => thumbnail(columns, k, { x: k * CELL, y: -CELL })) : []),
    ];
    const texts = Math.max(width, height) <= MAX_NUMBERS ? numbers(values) : [];
    stage.replaceChildren(cells, ...heads, ...texts, ...best, cursor);
    select(Math.min(place[0], height - 1), Math.min(place[1], width - 1));
  }

  /** Show the similarity of a row and a column, and its rank in the row. */
  function select(row, column) {
    place = [row, column];
    const { values, rows, columns } = compared;
    const value = values[row][column];
    const above = values[row].filter((other) => other > value).length;
    cursor.setAttribute("x", column * CELL);
    cursor.setAttribute("y", row * CELL);
    details.replaceChildren(
      element("span", {}, rows.names[row]),
      " × ",
      element("span", {}, columns.names[column]),
      element("output", {}, `${number(value)}, rank ${above + 1} of ${columns.count}`),
    );
    const thumbnails = [
      [rows, row],
      [columns, column],
    ].filter(([things]) => things.strip);
    pair.replaceChildren(
      ...thumbnails.map(([things, k]) =>
        svg("svg", { viewBox: `0 0 ${CELL} ${CELL}` }, thumbnail(things, k, { x: 0, y: 0 })),
      ),
    );
  }

  function follow({ clientX, clientY }) {
    const box = cells.getBoundingClientRect();
    const column = Math.floor(((clientX - box.left) / box.width) * compared.values[0].length);
    const row = Math.floor(((clientY - box.top) / box.height) * compared.values.length);
    if (compared.values[row]?.[column] !== undefined) select(row, column);
  }

  function press(event) {
    const [down, right] = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
    }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = [place[0] + down, place[1] + right];
    if (compared.values[row]?.[column] !== undefined) select(row, column);
  }

  return { element: element("div", { class: "kd-view" }, stage, below), show };
}

function hasThumbnails({ strip, names }) {
  return strip && names.length <= MAX_THUMBNAILS;
}

/** The k-th square image of a vertical strip. */
function thumbnail({ strip, names }, k, place) {
  const all = { width: CELL, height: CELL * names.length, preserveAspectRatio: "none" };
  return svg(
    "svg",
    { ...place, width: CELL, height: CELL, viewBox: `0 ${k * CELL} ${CELL} ${CELL}` },
    svg("image", { href: addressOf(strip), ...all }),
  );
}

function framed(name, row, column) {
  const size = { width: CELL, height: CELL };
  return svg("rect", { class: name, x: column * CELL, y: row * CELL, ...size });
}

function numbers(values) {
  const flat = values.flat();
  const [low, high] = [Math.min(...flat), Math.max(...flat)];
  return values.flatMap((row, r) =>
    row.map((value, c) => {
      const ink = inkOn((value - low) / (high - low || 1));
      const place = { x: (c + 0.5) * CELL, y: (r + 0.5) * CELL, fill: ink };
      return svg("text", place, value.toFixed(2));
    }),
  );
}
