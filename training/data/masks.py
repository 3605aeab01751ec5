"""Where the subject is in its pictures: loss masks and crops from grounded boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...kosmos.box_conversion import box_from_mask, window
from ...kosmos.crop import shaped
from ...kosmos.grounding import Box, GroundedText
from ...kosmos.select_boxes import choose_boxes, pad
from ...shared.images import to_tensor

AIR = 0.15
"""What a crop leaves around the subject, as a share of its longer side."""


def subject_boxes(seen: GroundedText, class_name: str) -> list[Box]:
    """Return the boxes of phrases that hold the class; else those of the first phrase with any."""
    named = choose_boxes(seen, "phrase", class_name)
    return named or next((list(phrase.boxes) for phrase in seen.phrases if phrase.boxes), [])


def box_mask(boxes: Sequence[Box], height: int, width: int) -> np.ndarray:
    """Return uint8 [height,width], 255 inside any of the boxes; everywhere when there is none."""
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        left, top, right, bottom = window(box, width, height)
        mask[top:bottom, left:right] = 255
    return mask if boxes else np.full_like(mask, 255)


def in_the_middle(mask: np.ndarray) -> bool:
    """Tell whether a mask [H,W] marks anything in the middle square of its picture."""
    height, width = mask.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return bool(mask[top : top + side, left : left + side].any())


def crop(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a picture [H,W,3] and its mask [H,W] to the square around what the mask marks.

    Where the picture is too small for a square with some air around, it ends at the edge.
    """
    height, width = mask.shape
    box = pad(box_from_mask(to_tensor(mask)), AIR)
    left, top, right, bottom = shaped(window(box, width, height), width, height, 1.0)
    return picture[top:bottom, left:right], mask[top:bottom, left:right]
