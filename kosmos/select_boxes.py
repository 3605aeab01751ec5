"""Choose among the boxes of a picture."""

from __future__ import annotations

from typing import Literal

from ..shared.errors import UserError
from .grounding import Box, GroundedText

Selection = Literal["all", "phrase", "index"]


def choose_boxes(
    seen: GroundedText, select: Selection, phrase: str = "", index: int = 0
) -> list[Box]:
    """Return boxes of one picture, in reading order; there may be none.

    "all" takes every box; "phrase" those of phrases that contain `phrase` as whole words, whatever
    the case; "index" the box with that number, counted from 0. Raises UserError for an empty
    `phrase`.
    """
    if select == "all":
        return list(seen.boxes)
    if select == "index":
        return list(seen.boxes[index : index + 1])
    wanted = phrase.lower().split()
    if not wanted:
        raise UserError('The phrase is empty: write one, or select "all".')
    return [
        box
        for candidate in seen.phrases
        if _contains(candidate.text.lower().split(), wanted)
        for box in candidate.boxes
    ]


def _contains(words: list[str], wanted: list[str]) -> bool:
    return any(words[k : k + len(wanted)] == wanted for k in range(len(words) - len(wanted) + 1))


def pad(box: Box, share: float) -> Box:
    """Move each edge outwards by a share of the box's longer side, as far as the picture goes.

    The sides are compared in 0..1 of the picture, as `box` is.
    """
    margin = share * max(box.x1 - box.x0, box.y1 - box.y0)
    return Box(
        max(box.x0 - margin, 0.0),
        max(box.y0 - margin, 0.0),
        min(box.x1 + margin, 1.0),
        min(box.y1 + margin, 1.0),
    )
