"""Place labels inside the image and, if possible, without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import ImageFont

Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

ELLIPSIS = "…"


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a text so that, with an ellipsis at its end, it is no wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + ELLIPSIS) > width:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def place_labels(
    boxes: Sequence[Rectangle],
    sizes: Sequence[tuple[float, float]],
    limit: tuple[float, float],
) -> list[Rectangle | None]:
    """Return for each box the rectangle of its label, or None where it is larger than the sheet.

    `sizes` are the labels' widths and heights, `limit` is the sheet's. Labels are placed in turn,
    each where it overlaps the previous ones least; the first of equally good candidates is taken.
    """
    labels: list[Rectangle | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        label = None
        if size[0] <= limit[0] and size[1] <= limit[1]:
            label = min(
                _candidates(box, size, limit),
                key=lambda candidate: sum(_overlap(candidate, other) for other in labels if other),
            )
        labels.append(label)
    return labels


def _candidates(
    box: Rectangle, size: tuple[float, float], limit: tuple[float, float]
) -> Iterator[Rectangle]:
    """Yield positions above the box, below it, and inside it from top to bottom; left, then right
    aligned."""
    width, height = size
    left, top, right, bottom = box
    rows = [top - height, bottom]
    rows += [top + k * height for k in range(max(1, int((bottom - top) // height)))]
    # A row outside the sheet is moved into it, so rows that need not move come first.
    rows.sort(key=lambda y: not 0 <= y <= limit[1] - height)
    for y in rows:
        for x in (left, right - width):
            x0 = min(max(x, 0), limit[0] - width)
            y0 = min(max(y, 0), limit[1] - height)
            yield x0, y0, x0 + width, y0 + height


def _overlap(a: Rectangle, b: Rectangle) -> float:
    """Return the area that two rectangles share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
