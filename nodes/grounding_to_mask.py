"""Makes masks of boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .region_inputs import box_choice_inputs, chosen_boxes, no_box_message
from .sockets import BBOX

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding
    from ..kosmos.select_boxes import Selection

CATEGORY = "Kosmos DreamBooth/look"


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
            inputs=box_choice_inputs(),
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
        chosen = chosen_boxes(images, grounding, bbox, how, phrase[0], box_index[0], padding[0])
        sizes = [picture.shape[:2] for picture in images]
        if len(set(sizes)) > 1:
            raise UserError(
                "The pictures have different sizes, so their masks are no batch: connect pictures "
                "of one size, or one at a time."
            )
        if not any(chosen):
            host.show_text(no_box_message(", so the masks are empty", how, phrase[0], box_index[0]))
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
