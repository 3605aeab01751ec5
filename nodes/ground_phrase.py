"""Finds what phrases name in pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host
from .batch_inputs import batch_size_input, watched
from .sockets import BBOX, GROUNDING, KOSMOS
from .text_inputs import required_lines

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos

CATEGORY = "Kosmos DreamBooth/look"


class GroundPhrase(io.ComfyNode):
    """Finds what phrases name in pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GroundPhrase",
            display_name="Ground Phrase",
            category=CATEGORY,
            description="Finds in every picture of a batch what a phrase names, and boxes it. Each "
            "picture is looked at once, however many the phrases.",
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One picture or a batch, of any size."),
                io.String.Input(
                    "phrases",
                    default="a dog",
                    multiline=True,
                    tooltip="One phrase a line: 'a red dog', 'the left ear of the dog'.",
                ),
                io.Boolean.Input(
                    "verify",
                    default=True,
                    tooltip="Ask what is in each box, and drop it when the answer lacks the "
                    "phrase's noun. Off: believe the model, which points somewhere even when the "
                    "thing is not there.",
                ),
                batch_size_input("Phrases"),
            ],
            outputs=[
                GROUNDING.Output(
                    display_name="grounding",
                    tooltip="For each picture the phrases, with boxes where they are seen.",
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="For each picture a list of boxes [x0, y0, x1, y1] in pixels, empty "
                    "when nothing is found.",
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="1 inside any box, one mask per picture."
                ),
                io.Image.Output(
                    display_name="annotated", tooltip="The pictures with boxes and phrases drawn."
                ),
                io.String.Output(
                    display_name="missing",
                    tooltip="Which phrases were not found in which picture; empty when all were.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, kosmos: Kosmos, image: torch.Tensor, phrases: str, verify: bool, batch_size: int
    ) -> io.NodeOutput:
        """Find the phrases."""
        from ..drawing.boxes import boxes_to_mask, draw_boxes_batch
        from ..kosmos.box_conversion import boxes_to_pixels
        from ..kosmos.generate.ground import ground, missing
        from ..kosmos.grounding import Grounding

        wanted = required_lines(phrases, "phrase")
        host.load_to_device(kosmos.patcher)
        batching = watched(len(image) * len(wanted), batch_size)
        found = ground(kosmos, image, wanted, verify=verify, batching=batching)
        absent = missing(found)
        if absent:
            host.show_text(absent)
        height, width = image.shape[1:3]
        return io.NodeOutput(
            Grounding(tuple(found)),
            [boxes_to_pixels(seen.boxes, width, height) for seen in found],
            torch.stack([boxes_to_mask(seen, height, width) for seen in found]),
            draw_boxes_batch(image, found),
            absent,
        )
