"""Convert boxes between fractions of an image, pixels and masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..shared.errors import UserError, shortened
from ..shared.images import one_per_image
from .grounding import Box, LabeledBox

logger = logging.getLogger(__name__)

Window = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""

BoundingBox = dict[str, int | float | str]
"""x, y, width and height in whole pixels, rounded outwards; label, and score in 0..1."""

EPSILON = 1e-6
"""Pixels; an edge this close to a pixel border is on it, as fractions are not exact."""


def box_from_mask(mask: Tensor) -> Box:
    """Return the smallest box, in 0..1, around all pixels of a mask [H,W] that are above 0.5.

    Raises UserError when there is none.
    """
    inside = mask > 0.5
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if len(rows) == 0:
        raise UserError("The mask is empty: draw the region, or connect a bbox.")
    height, width = mask.shape
    return Box(
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def read_boxes(bbox: Sequence[object], sizes: Sequence[tuple[int, int]]) -> list[list[LabeledBox]]:
    """Convert the values of a "BBOX,BOUNDING_BOX" input to each image's boxes, in 0..1.

    bbox: the values that were connected, one or several; sizes: width and height of each image.
    A box is, in pixels of the image,

    - a dictionary with x, y, width and height, as core has them, or startX, startY, endX and endY,
      as KJNodes has them; `label` and `score` are optional;
    - [x0, y0, x1, y1] or [x0, y0, x1, y1, score].

    A value is a box, a list of boxes, or a list of such lists, one for each image; arrays and
    tensors are read as lists. A box or a list of boxes is for one image if there are as many
    values as images, and for every image if it is the only one. Boxes are clipped to the image. A
    box outside of it, without area, or in fractions of the image is left out with a warning.
    Raises UserError when no box is left then, for anything else than boxes, and for boxes of
    another number of images.
    """
    lists = [boxes for value in bbox for boxes in _lists_per_image(_as_lists(value))]
    boxes: list[list[LabeledBox]] = []
    errors: list[str] = []
    for k, of_image in enumerate(one_per_image(lists, len(sizes), "bbox")):
        boxes.append([])
        for box in of_image:
            try:
                boxes[k].append(_read_box(box, *sizes[k]))
            except _LeftOutError as error:
                errors.append(f"Image {k + 1}: {error}")
    if errors and not any(boxes):
        raise UserError(errors[0])
    for message in errors:
        logger.warning("%s It is left out.", message)
    return boxes


class _LeftOutError(ValueError):
    """A box that marks no region of the image in pixels."""


def _as_lists(value: Any) -> Any:
    """Return a value with lists in place of its tuples, arrays, tensors and their scalars."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_as_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _is_box(value: Any) -> bool:
    """Tell a box from a list of boxes."""
    numbers = isinstance(value, list) and all(isinstance(edge, int | float) for edge in value)
    return isinstance(value, dict) or (numbers and bool(value))


def _lists_per_image(value: Any) -> list[list[Any]]:
    """Return a value's lists of boxes: one for each image, or a single one."""
    if _is_box(value):
        return [[value]]
    if not isinstance(value, list):
        raise UserError(
            f"The bbox input is of type {type(value).__name__}, not a box: connect a "
            "BOUNDING_BOX, or boxes as [x0, y0, x1, y1] in pixels."
        )
    if all(map(_is_box, value)):
        return [value]
    return [[box for boxes in _lists_per_image(part) for box in boxes] for part in value]


def _read_box(box: dict[str, Any] | list[float], width: int, height: int) -> LabeledBox:
    """Read one box; raises _LeftOutError when it marks no region of the image in pixels."""
    label, score = "", 1.0
    try:
        if isinstance(box, list):
            x0, y0, x1, y1, *rest = map(float, box)
            [score] = rest or [score]
        else:
            if "startX" in box:  # drawn from any corner
                x0, x1 = sorted((float(box["startX"]), float(box["endX"])))
                y0, y1 = sorted((float(box["startY"]), float(box["endY"])))
            else:
                x0, y0 = float(box["x"]), float(box["y"])
                x1, y1 = x0 + float(box["width"]), y0 + float(box["height"])
            label = str(box.get("label") or "")
            score = score if box.get("score") is None else float(box["score"])
    except (KeyError, OverflowError, TypeError, ValueError):
        raise UserError(
            f"The bbox input has {shortened(repr(box))}, which is no box: connect dictionaries "
            "with x, y, width and height, or [x0, y0, x1, y1], in pixels."
        ) from None
    edges = f"{x0:g}, {y0:g}, {x1:g}, {y1:g}"
    if max(x1, y1) <= 1 and 0 < min(x1 - x0, y1 - y0) < 1:
        raise _LeftOutError(
            f"the region {edges} is smaller than a pixel: multiply fractions of the image by its "
            f"width and height, {width} and {height}."
        )
    left, right = max(x0, 0), min(x1, width)
    top, bottom = max(y0, 0), min(y1, height)
    if not (left < right and top < bottom):
        raise _LeftOutError(
            f"the region {edges} is outside the image of {width}x{height} pixels, or has no area: "
            "give x0, y0, x1, y1 in pixels of this image."
        )
    return LabeledBox(Box(left / width, top / height, right / width, bottom / height), label, score)


def bounding_boxes(
    boxes: Sequence[Sequence[LabeledBox]], sizes: Sequence[tuple[int, int]]
) -> list[list[BoundingBox]]:
    """Return core's BOUNDING_BOX: for each image of `sizes` (width, height) a list of its boxes."""
    return [
        [bounding_box(window(labeled.box, *size), labeled) for labeled in of_image]
        for of_image, size in zip(boxes, sizes, strict=True)
    ]


def bounding_box(pixels: Window, labeled: LabeledBox) -> BoundingBox:
    """Return a window as a BOUNDING_BOX's dictionary, with a box's label and score."""
    left, top, right, bottom = pixels
    return {
        "x": left,
        "y": top,
        "width": right - left,
        "height": bottom - top,
        "label": labeled.label,
        "score": labeled.score,
    }


def boxes_to_pixels(boxes: Sequence[Box], width: int, height: int) -> list[list[int]]:
    """Return boxes as a BBOX: [x0, y0, x1, y1] in whole pixels, rounded outwards."""
    return [list(window(box, width, height)) for box in boxes]


def window(box: Box, width: int, height: int) -> Window:
    """Return the pixels that a box touches, at least one, in an image of `width` x `height`."""
    left, right = _touched_pixels(box.x0 * width, box.x1 * width, width)
    top, bottom = _touched_pixels(box.y0 * height, box.y1 * height, height)
    return left, top, right, bottom


def _touched_pixels(low: float, high: float, limit: int) -> tuple[int, int]:
    first = min(max(math.floor(low + EPSILON), 0), limit - 1)
    return first, min(max(math.ceil(high - EPSILON), first + 1), limit)
