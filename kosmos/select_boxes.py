"""Select among the boxes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..shared.errors import UserError
from .grounding import Box, LabeledBox

Selection = Literal["all", "phrase", "index"]


def select_boxes(
    boxes: Sequence[LabeledBox], select: Selection, phrase: str = "", index: int = 0
) -> list[LabeledBox]:
    """Return boxes of one image, in their order; there may be none.

    "all" takes every box; "phrase" those whose labels contain `phrase` as whole words, ignoring
    case; "index" the box at that index. Raises UserError for an empty `phrase`.
    """
    if select == "all":
        return list(boxes)
    if select == "index":
        return list(boxes[index : index + 1])
    words = phrase.lower().split()
    if not words:
        raise UserError('The phrase is empty: write one, or select "all".')
    return [box for box in boxes if _contains_words(box.label.lower().split(), words)]


def _contains_words(text: list[str], words: list[str]) -> bool:
    return any(text[k : k + len(words)] == words for k in range(len(text) - len(words) + 1))


def pad_box(box: Box, share: float, width: int, height: int) -> Box:
    """Move each edge outwards by a share of the box's longer side, clipped to the image.

    `width` and `height` are those of the image in pixels, in which the sides are compared.
    """
    margin = share * max((box.x1 - box.x0) * width, (box.y1 - box.y0) * height)
    return Box(
        max(box.x0 - margin / width, 0.0),
        max(box.y0 - margin / height, 0.0),
        min(box.x1 + margin / width, 1.0),
        min(box.y1 + margin / height, 1.0),
    )
