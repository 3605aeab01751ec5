"""Convert boxes between fractions of an image, pixels and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..shared.errors import UserError
from .grounding import Box

Window = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""

EPSILON = 1e-6
"""Pixels; an edge this close to a pixel border is on it, as fractions are not exact."""


def box_from_mask(mask: Tensor) -> Box:
    """Return the smallest box, in 0..1, around all pixels of a mask [H,W] that are above 0.5.

    Raises UserError when there is none.
    """
    inside = mask > 0.5
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if len(rows) == 0:
        raise UserError("The mask is empty: paint the region, or connect a bbox.")
    height, width = mask.shape
    return Box(
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def boxes_from_pixels(bbox: object, width: int, height: int) -> list[Box]:
    """Convert a BBOX, as nodes of core and of other packs give it, to boxes in 0..1.

    It is one box or any nesting of boxes. A box is [x0, y0, x1, y1] in pixels of the image (a
    sequence or a tensor), or a dictionary with x, y, width and height. Boxes are clipped to the
    image. Raises UserError for anything else, and for a box that lies outside the image or has no
    area.
    """
    if isinstance(bbox, torch.Tensor):
        bbox = bbox.tolist()
    if isinstance(bbox, dict) and {"x", "y", "width", "height"} <= bbox.keys():
        x, y = bbox["x"], bbox["y"]
        return [_clip((x, y, x + bbox["width"], y + bbox["height"]), width, height)]
    if not isinstance(bbox, list | tuple):
        raise UserError(
            f"The bbox input is of type {type(bbox).__name__}, not a box: connect boxes as "
            "[x0, y0, x1, y1] in pixels."
        )
    if bbox and all(isinstance(edge, int | float) for edge in bbox):
        if len(bbox) != 4:
            raise UserError(
                f"The bbox input has a box of {len(bbox)} numbers: connect [x0, y0, x1, y1] in "
                "pixels."
            )
        return [_clip(tuple(bbox), width, height)]
    return [box for part in bbox for box in boxes_from_pixels(part, width, height)]


def _clip(corners: tuple[float, ...], width: int, height: int) -> Box:
    x0, y0, x1, y1 = corners
    left, right = max(x0, 0), min(x1, width)
    top, bottom = max(y0, 0), min(y1, height)
    if not (left < right and top < bottom):
        raise UserError(
            f"The region {x0:g}, {y0:g}, {x1:g}, {y1:g} is outside the image of {width}x{height} "
            "pixels, or has no area: give x0, y0, x1, y1 in pixels of this image."
        )
    return Box(left / width, top / height, right / width, bottom / height)


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
