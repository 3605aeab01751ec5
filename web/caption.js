import { element } from "./element.js";

/**
 * A caption with parts to point at: with the mouse, or with Tab and arrow keys.
 *
 * `pieces` are `{ start, end, colour? }` in reading order, without overlaps. `onpoint(k)`
 * gets the piece under the pointer or with the focus, or null, and `onchoose(k)` the piece that was
 * clicked, entered or reached by arrow keys.
 */
export function caption(text, pieces, { onpoint = () => {}, onchoose = () => {} }) {
  const letters = [...text]; // Python counts characters, JavaScript UTF-16 units
  const part = (start, end) => letters.slice(start, end).join("");
  const marks = pieces.map((piece, k) =>
    element(
      "span",
      {
        class: "kd-phrase",
        role: "button",
        tabindex: k === 0 ? 0 : -1,
        style: piece.colour ? `--kd-colour: ${piece.colour}` : "",
        onpointerenter: () => onpoint(k),
        onpointerleave: () => onpoint(null),
        onfocus: () => onpoint(k),
        onblur: () => onpoint(null),
        onclick: () => onchoose(k),
        onkeydown: (event) => press(event, k),
      },
      part(piece.start, piece.end) || "▢",
    ),
  );

  function press(event, k) {
    const targets = {
      ArrowLeft: Math.max(k - 1, 0),
      ArrowRight: Math.min(k + 1, marks.length - 1),
      Home: 0,
      End: marks.length - 1,
      Enter: k,
      " ": k,
    };
    const target = targets[event.key];
    if (target === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    marks.forEach((mark, other) => (mark.tabIndex = other === target ? 0 : -1));
    marks[target].focus();
    onchoose(target);
  }

  const paragraph = element("p", { class: "kd-caption kd-scroll" });
  let place = 0;
  pieces.forEach((piece, k) => {
    paragraph.append(part(place, piece.start), marks[k]);
    place = piece.end;
  });
  paragraph.append(part(place));
  return { element: paragraph, marks };
}
