"""The node that finds phrases in images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host
from .batch_inputs import batch_options, batch_size_input
from .sockets import BBOX, GROUNDING, KOSMOS, bboxes_output
from .text_inputs import required_lines

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos


class GroundPhrase(io.ComfyNode):
    """Phrase grounding: a box for each thing that a phrase names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GroundPhrase",
            display_name="Ground Phrase",
            category="Kosmos DreamBooth/vision",
            search_aliases="grounding, detect, object detection, bounding box, segment, "
            "grounding dino, find, florence, open vocabulary",
            advanced="batch_size",
            essentials_category="Image Tools",
            description="Detects what a phrase names in every image of a batch and returns its "
            "boxes (phrase grounding). Each image is encoded once, however many phrases there are.",
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One image or a batch, of any size."),
                io.String.Input(
                    "phrases",
                    default="a dog",
                    multiline=True,
                    tooltip="One phrase per line: 'a red dog', 'the left ear of the dog'.",
                ),
                io.Boolean.Input(
                    "verify",
                    default=True,
                    tooltip="Caption each box and drop it when the caption lacks the phrase's "
                    "noun. Off: fewer passes, but the published Kosmos-2 returns a box even for a "
                    "phrase that is not in the image.",
                ),
                batch_size_input("Phrases"),
            ],
            outputs=[
                GROUNDING.Output(
                    display_name="grounding",
                    tooltip="The phrases of each image, with the boxes that were found.",
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="A list of boxes [x0, y0, x1, y1] in pixels for each image; empty when "
                    "nothing is found.",
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="1 inside any box, one mask per image."
                ),
                io.Image.Output(
                    display_name="annotated", tooltip="The images with boxes and phrases drawn."
                ),
                io.String.Output(
                    display_name="missing",
                    tooltip="The phrases that were not found, with the numbers of the images; "
                    "empty when all were found.",
                ),
                bboxes_output("The boxes for core's nodes, labeled with their phrases."),
            ],
        )

    @classmethod
    def execute(
        cls, kosmos: Kosmos, image: torch.Tensor, phrases: str, verify: bool, batch_size: int
    ) -> io.NodeOutput:
        """Find the phrases."""
        from ..drawing.boxes import boxes_to_mask, draw_boxes_batch
        from ..kosmos.box_conversion import bounding_boxes, boxes_to_pixels
        from ..kosmos.generate.ground import describe_missing, ground
        from ..kosmos.grounding import Grounding

        lines = required_lines(phrases, "phrase")
        host.load_to_device(kosmos.patcher)
        options = batch_options(len(image) * len(lines), batch_size)
        texts = ground(kosmos, image, lines, verify=verify, batching=options)
        not_found = describe_missing(texts)
        if not_found:
            host.show_text(not_found)
        height, width = image.shape[1:3]
        return io.NodeOutput(
            Grounding(tuple(texts)),
            [boxes_to_pixels(text.boxes, width, height) for text in texts],
            torch.stack([boxes_to_mask(text.boxes, height, width) for text in texts]),
            draw_boxes_batch(image, texts),
            not_found,
            bounding_boxes([text.labeled_boxes for text in texts], [(width, height)] * len(texts)),
        )
