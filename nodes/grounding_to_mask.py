"""The node that turns boxes into masks."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .image_inputs import image_sizes, split_as, split_images
from .region_inputs import no_box_message, selected_boxes, selection_inputs
from .sockets import BBOX, bboxes_output


class GroundingToMask(io.ComfyNode):
    """Masks of boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GroundingToMask",
            display_name="Grounding to Mask",
            category="Kosmos DreamBooth/vision",
            search_aliases="segment, mask from box, bounding box to mask, bbox, grounding",
            advanced="box_index",
            description="Turns boxes into masks: all boxes of a grounding, those of a phrase, or "
            "one.",
            is_input_list=True,
            inputs=selection_inputs(),
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="A batch with one mask per image: 1 inside any selected box.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    is_output_list=True,
                    tooltip="For each image a batch with one mask per selected box; a single empty "
                    "mask when none is selected.",
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="For each image its selected boxes, padded, in pixels.",
                ),
                bboxes_output("The same boxes for core's nodes.", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, image: list[torch.Tensor], **selection: Any) -> io.NodeOutput:
        """Draw the masks; selection: the other inputs, as `selected_boxes` takes them."""
        from ..drawing.boxes import boxes_to_mask
        from ..kosmos.box_conversion import bounding_boxes, boxes_to_pixels

        images = split_images(image)
        labeled = selected_boxes(images, **selection)
        selected = [[box.box for box in of_image] for of_image in labeled]
        sizes = [tuple(one.shape[:2]) for one in images]
        if len(set(sizes)) > 1:
            raise UserError(
                "The images have different sizes, so their masks cannot form a batch: connect "
                "images of one size, or one at a time."
            )
        if not any(selected):
            host.show_text(f"{no_box_message(**selection)}, so the masks are empty.")
        height, width = sizes[0]
        return io.NodeOutput(
            torch.stack([boxes_to_mask(boxes, height, width) for boxes in selected]),
            [
                torch.stack([boxes_to_mask([box], height, width) for box in boxes])
                if boxes
                else torch.zeros(1, height, width)
                for boxes in selected
            ],
            [boxes_to_pixels(boxes, width, height) for boxes in selected],
            split_as(bounding_boxes(labeled, image_sizes(images)), image),
        )
