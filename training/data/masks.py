"""Subject masks and crops from grounded boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...kosmos.box_conversion import box_from_mask, window
from ...kosmos.crop import expand_to_aspect
from ...kosmos.grounding import Box, GroundedText
from ...kosmos.select_boxes import pad_box, select_boxes
from ...shared.images import to_tensor

CROP_MARGIN = 0.15
"""Margin of a crop around the subject, as a share of the subject's longer side."""


def subject_boxes(grounded: GroundedText, class_name: str) -> list[Box]:
    """Return the boxes of phrases with the class name; else of the first phrase that has boxes."""
    boxes = [labeled.box for labeled in select_boxes(grounded.labeled_boxes, "phrase", class_name)]
    return boxes or next((list(phrase.boxes) for phrase in grounded.phrases if phrase.boxes), [])


def box_mask(boxes: Sequence[Box], height: int, width: int) -> np.ndarray:
    """Return uint8 [height,width], 255 inside any of the boxes; 255 everywhere without boxes."""
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        left, top, right, bottom = window(box, width, height)
        mask[top:bottom, left:right] = 255
    return mask if boxes else np.full_like(mask, 255)


def marks_center_square(mask: np.ndarray) -> bool:
    """Tell whether a mask [H,W] is anywhere nonzero in the central square."""
    height, width = mask.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return bool(mask[top : top + side, left : left + side].any())


def crop_to_mask(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image [H,W,3] and its mask [H,W] to a square around the mask's nonzero pixels.

    The square has a margin of CROP_MARGIN; at the edges of the image it is cut off.
    """
    height, width = mask.shape
    box = pad_box(box_from_mask(to_tensor(mask)), CROP_MARGIN, width, height)
    left, top, right, bottom = expand_to_aspect(window(box, width, height), width, height, 1.0)
    return image[top:bottom, left:right], mask[top:bottom, left:right]
