"""The inputs by which nodes choose boxes, and the boxes they choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from .sockets import BBOX, GROUNDING

if TYPE_CHECKING:
    from ..kosmos.grounding import Box, GroundedText, Grounding
    from ..kosmos.select_boxes import Selection


def box_choice_inputs() -> list[io.Input]:
    """The inputs by which GroundingToMask and GroundingCrop choose boxes."""
    return [
        io.Image.Input("image", tooltip="The pictures that were looked at: a batch, or a list."),
        io.Combo.Input(
            "select",
            options=["all", "phrase", "index"],
            default="all",
            tooltip="all: every box. phrase: the boxes of phrases that contain the words below. "
            "index: one box of each picture.",
        ),
        io.String.Input(
            "phrase",
            default="",
            tooltip="For phrase only: whole words, such as 'dog' or 'red dog', in any case.",
        ),
        io.Int.Input(
            "box_index",
            default=0,
            min=0,
            max=9999,
            tooltip="For index only: which box of a picture, in reading order, counted from 0.",
        ),
        io.Float.Input(
            "padding",
            default=0.0,
            min=0.0,
            max=4.0,
            step=0.01,
            tooltip="Room around each box, as a share of its longer side.",
        ),
        GROUNDING.Input(
            "grounding",
            optional=True,
            tooltip="From GroundedCaption, GroundPhrase or DescribeRegion.",
        ),
        BBOX.Input(
            "bbox",
            optional=True,
            tooltip="Boxes from another node, in place of a grounding: [x0, y0, x1, y1] in pixels "
            "(or with x, y, width and height), a list for each picture, or one for all.",
        ),
    ]


def chosen_boxes(
    images: list[torch.Tensor],
    grounding: list[Grounding] | None,
    bbox: list[object] | None,
    select: Selection,
    phrase: str,
    box_index: int,
    padding: float,
) -> list[list[Box]]:
    """Return each picture's chosen boxes, padded, in 0..1."""
    from ..kosmos.select_boxes import choose_boxes, pad

    seen = _seen(images, grounding, bbox)
    if bbox and select == "phrase":
        raise UserError("The boxes of a bbox have no phrases: select all or index.")
    return [
        [pad(box, padding) for box in choose_boxes(each, select, phrase, box_index)]
        for each in seen
    ]


def _seen(
    images: list[torch.Tensor], grounding: list[Grounding] | None, bbox: list[object] | None
) -> list[GroundedText]:
    from ..kosmos.box_conversion import boxes_from_pixels
    from ..kosmos.grounding import GroundedText, Phrase

    seen = [picture for part in grounding or [] for picture in part.pictures]
    given = bbox * len(images) if bbox and len(bbox) == 1 else bbox or seen
    if len(given) != len(images):
        raise UserError(
            f"There are {len(images)} pictures but boxes for {len(given)}: connect a grounding or "
            "a bbox that was made from the same pictures."
        )
    if not bbox:
        return seen
    return [
        GroundedText("", (Phrase("", 0, 0, tuple(boxes_from_pixels(one, *image.shape[1::-1]))),))
        for image, one in zip(images, given, strict=True)
    ]


def no_box_message(seen: str, select: str, phrase: str, box_index: int) -> str:
    """Return what a message says when no image has a chosen box."""
    wanted = {"all": "a box", "phrase": f'"{phrase}"', "index": f"a box {box_index}"}[select]
    return f"No picture has {wanted}{seen}."
