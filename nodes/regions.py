"""Nodes that turn what was seen into masks and crops."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .sockets import BBOX, GROUNDING

if TYPE_CHECKING:
    from ..kosmos.grounding import Box, GroundedText, Grounding
    from ..kosmos.select_boxes import Selection

CATEGORY = "Kosmos DreamBooth/look"
ASPECTS = ["box", "picture", "square"]


def _choice_inputs() -> list[io.Input]:
    """The inputs by which both nodes choose boxes."""
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


def _chosen(
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


def _nothing(seen: str, select: str, phrase: str, box_index: int) -> str:
    wanted = {"all": "a box", "phrase": f'"{phrase}"', "index": f"a box {box_index}"}[select]
    return f"No picture has {wanted}{seen}."


class GroundingToMask(io.ComfyNode):
    """Makes masks of boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GroundingToMask",
            display_name="Grounding to Mask",
            category=CATEGORY,
            description="Makes masks of the boxes that were seen: all of them, those of a phrase, "
            "or one.",
            is_input_list=True,
            inputs=_choice_inputs(),
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="A batch with one mask for each picture: 1 inside any chosen box.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="For each picture a batch with one mask for each chosen box; a single "
                    "empty mask where there is none.",
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="For each picture its chosen boxes, padded, in pixels.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        select: list[str],
        phrase: list[str],
        box_index: list[int],
        padding: list[float],
        grounding: list[Grounding] | None = None,
        bbox: list[object] | None = None,
    ) -> io.NodeOutput:
        """Make the masks."""
        from ..drawing.boxes import boxes_to_cover_mask
        from ..kosmos.box_conversion import boxes_to_pixels

        images = [picture for batch in image for picture in batch]
        how = cast("Selection", select[0])
        chosen = _chosen(images, grounding, bbox, how, phrase[0], box_index[0], padding[0])
        sizes = [picture.shape[:2] for picture in images]
        if len(set(sizes)) > 1:
            raise UserError(
                "The pictures have different sizes, so their masks are no batch: connect pictures "
                "of one size, or one at a time."
            )
        if not any(chosen):
            host.show_text(_nothing(", so the masks are empty", how, phrase[0], box_index[0]))
        height, width = sizes[0]
        return io.NodeOutput(
            torch.stack([boxes_to_cover_mask(boxes, height, width) for boxes in chosen]),
            [
                torch.stack([boxes_to_cover_mask([box], height, width) for box in boxes])
                if boxes
                else torch.zeros(1, height, width)
                for boxes in chosen
            ],
            [boxes_to_pixels(boxes, width, height) for boxes in chosen],
        )


class GroundingCrop(io.ComfyNode):
    """Cuts boxes out of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GroundingCrop",
            display_name="Grounding Crop",
            category=CATEGORY,
            description="Cuts what was seen out of the pictures: every box, those of a phrase, or "
            "one.",
            is_input_list=True,
            inputs=[
                *_choice_inputs(),
                io.Combo.Input(
                    "aspect",
                    options=ASPECTS,
                    default="box",
                    optional=True,
                    tooltip="Shape of a crop. box: as the box is. picture, square: the box and as "
                    "much around it as gives that shape, as far as the picture goes.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=8192,
                    optional=True,
                    tooltip="Scale each crop until its longer side has so many pixels; its shape "
                    "is kept. 0: leave the pixels as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="crops",
                    is_output_list=True,
                    tooltip="Picture after picture, a crop for each chosen box.",
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="For each crop where it was cut out, in pixels of its picture.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        select: list[str],
        phrase: list[str],
        box_index: list[int],
        padding: list[float],
        grounding: list[Grounding] | None = None,
        bbox: list[object] | None = None,
        aspect: list[str] | None = None,
        size: list[int] | None = None,
    ) -> io.NodeOutput:
        """Cut the boxes out."""
        from ..kosmos.box_conversion import window
        from ..kosmos.crop import cut, shaped

        images = [picture for batch in image for picture in batch]
        how = cast("Selection", select[0])
        chosen = _chosen(images, grounding, bbox, how, phrase[0], box_index[0], padding[0])
        if not any(chosen):
            raise UserError(
                _nothing(" to cut out: select another one", how, phrase[0], box_index[0])
            )
        crops, windows = [], []
        for picture, boxes in zip(images, chosen, strict=True):
            height, width = picture.shape[:2]
            shape = {"box": None, "picture": width / height, "square": 1.0}[(aspect or ["box"])[0]]
            for box in boxes:
                pixels = window(box, width, height)
                pixels = pixels if shape is None else shaped(pixels, width, height, shape)
                windows.append(pixels)
                crops.append(cut(picture, pixels, (size or [0])[0]))
        return io.NodeOutput(crops, [[list(one)] for one in windows])
