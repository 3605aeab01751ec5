"""Cuts boxes out of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from .region_inputs import box_choice_inputs, chosen_boxes, no_box_message
from .sockets import BBOX

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding
    from ..kosmos.select_boxes import Selection

CATEGORY = "Kosmos DreamBooth/look"
ASPECTS = ["box", "picture", "square"]


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
                *box_choice_inputs(),
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
        chosen = chosen_boxes(images, grounding, bbox, how, phrase[0], box_index[0], padding[0])
        if not any(chosen):
            raise UserError(
                no_box_message(" to cut out: select another one", how, phrase[0], box_index[0])
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
