"""Describe what is in a region of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import MendableError
from .batches import UNWATCHED, Pace
from .generate import reply
from .grounding import Box, GroundedText, Phrase, parse, write
from .model import Kosmos
from .pictures import Pictures
from .prompt import Prompt, read_text, tokenize

OPENING = "It is"


def region_prompt(kosmos: Kosmos, box: Box, max_new_tokens: int) -> Prompt:
    """Return the prompt that the published model names a region by: `<phrase> It</phrase>`, the
    region's box, and "is"."""
    opening = GroundedText(OPENING, (Phrase("It", 0, 2, (box,)),))
    # As in training there is a blank in front of "It", inside the tag.
    return tokenize(kosmos, write(opening).replace("<phrase>", "<phrase> "), max_new_tokens)


def describe(
    kosmos: Kosmos,
    pictures: Pictures,
    regions: Sequence[Sequence[Box]],
    *,
    max_new_tokens: int = 32,
    pace: Pace = UNWATCHED,
) -> list[list[str]]:
    """Say what is in each region of each picture: "a red dog.".

    `regions` has an entry for each picture, with any number of boxes in 0..1 of it; the result has
    the same shape. Boxes are rounded outwards to the 32 by 32 grid of Kosmos-2. `pace` counts
    regions. Raises MendableError as `generate.reply` does.
    """
    prompts = [[region_prompt(kosmos, box, max_new_tokens) for box in boxes] for boxes in regions]
    replies = reply(kosmos, pictures, prompts, max_new_tokens=max_new_tokens, pace=pace)
    return [
        [
            parse(read_text(kosmos, prompt, one.ids)).caption.removeprefix(OPENING).strip()
            for prompt, one in zip(asked, each, strict=True)
        ]
        for asked, each in zip(prompts, replies, strict=True)
    ]


def labelled(boxes: Sequence[Box], texts: Sequence[str]) -> GroundedText:
    """Join what regions of a picture hold into one text, each description a phrase with its box."""
    caption = ""
    phrases = []
    for box, text in zip(boxes, texts, strict=True):
        name = text.rstrip(".")
        start = len(caption) + (1 if caption else 0)
        phrases.append(Phrase(name, start, start + len(name), (box,)))
        caption = f"{caption} {text}" if caption else text
    return GroundedText(caption, tuple(phrases))


def box_from_mask(mask: Tensor) -> Box:
    """Return the smallest box, in 0..1, around all pixels of a mask [H,W] that are above 0.5.

    Raises MendableError when there is none.
    """
    marked = mask > 0.5
    rows, columns = marked.any(1).nonzero().flatten(), marked.any(0).nonzero().flatten()
    if len(rows) == 0:
        raise MendableError(
            "The mask is empty, so it marks no region: paint where the thing is, or connect a bbox."
        )
    height, width = mask.shape
    return Box(
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def boxes_from_pixels(bbox: object, width: int, height: int) -> list[Box]:
    """Read a BBOX, as nodes of core and of other packs give it, into boxes in 0..1.

    It is one box or any nesting of boxes. A box is [x0, y0, x1, y1] in pixels of the picture (a
    sequence or a tensor), or a dictionary with x, y, width and height. What reaches beyond the
    picture is cut off. Raises MendableError for anything else, and for a box that lies outside the
    picture or has no area.
    """
    if isinstance(bbox, torch.Tensor):
        bbox = bbox.tolist()
    if isinstance(bbox, dict) and {"x", "y", "width", "height"} <= bbox.keys():
        x, y = bbox["x"], bbox["y"]
        return [_in_picture((x, y, x + bbox["width"], y + bbox["height"]), width, height)]
    if not isinstance(bbox, list | tuple):
        raise MendableError(
            f"The bbox input holds {type(bbox).__name__} and no box: connect boxes as "
            "[x0, y0, x1, y1] in pixels."
        )
    if bbox and all(isinstance(edge, int | float) for edge in bbox):
        if len(bbox) != 4:
            raise MendableError(
                f"The bbox input has a box of {len(bbox)} numbers: a box is [x0, y0, x1, y1] in "
                "pixels."
            )
        return [_in_picture(tuple(bbox), width, height)]
    return [box for part in bbox for box in boxes_from_pixels(part, width, height)]


def _in_picture(corners: tuple[float, ...], width: int, height: int) -> Box:
    x0, y0, x1, y1 = corners
    left, right = max(x0, 0), min(x1, width)
    top, bottom = max(y0, 0), min(y1, height)
    if not (left < right and top < bottom):
        raise MendableError(
            f"The region [{', '.join(f'{edge:g}' for edge in corners)}] lies outside the picture of "
            f"{width}x{height} pixels, or has no area: give [x0, y0, x1, y1] in pixels of it."
        )
    return Box(left / width, top / height, right / width, bottom / height)


def boxes_to_pixels(boxes: Sequence[Box], width: int, height: int) -> list[list[int]]:
    """Return boxes as a BBOX: [x0, y0, x1, y1] in whole pixels, outwards."""
    return [
        [
            int(box.x0 * width),
            int(box.y0 * height),
            -int(-box.x1 * width // 1),
            -int(-box.y1 * height // 1),
        ]
        for box in boxes
    ]
