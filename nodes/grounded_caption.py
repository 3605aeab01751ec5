"""Describes a batch of pictures, and boxes what the description names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..kosmos.generate.language import ENGLISH, LANGUAGES, check_language, prompt_in
from ..kosmos.kosmos_model import Kosmos
from ..shared.errors import UserError
from . import host, panel_data
from .batch_inputs import batch_size_input, watched
from .sockets import BBOX, GROUNDING, KOSMOS

if TYPE_CHECKING:
    pass


class GroundedCaption(io.ComfyNode):
    """Describes a batch of pictures, and boxes what the description names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GroundedCaption",
            display_name="Grounded Caption",
            category="Kosmos DreamBooth/look",
            description="Describes every picture of a batch, and draws a box around each thing "
            "that the description names.",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One picture or a batch, of any size."),
                io.Combo.Input(
                    "style",
                    options=["brief", "detailed", "custom"],
                    default="brief",
                    tooltip="brief: one sentence. detailed: a paragraph. custom: what the prompt "
                    "asks for.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip='For custom style only. A beginning, such as "A photo of", is '
                    "continued and kept; a prompt that ends in a colon or a question mark is "
                    "answered and left out of the caption.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=128,
                    min=1,
                    max=1024,
                    tooltip="Where a caption is cut off at the latest. A box takes 4 tokens.",
                ),
                batch_size_input("Pictures"),
                io.Combo.Input(
                    "decoding",
                    options=["greedy", "beam", "sample"],
                    default="greedy",
                    optional=True,
                    tooltip="greedy: the likeliest word each time. beam: the likeliest of several "
                    "texts, slower. sample: words are drawn, so that each seed tells another "
                    "story.",
                ),
                io.Int.Input(
                    "beams",
                    default=4,
                    min=2,
                    max=32,
                    optional=True,
                    tooltip="For beam only: how many texts are followed at once.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.8,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    optional=True,
                    tooltip="For sample only: below 1 likely words become likelier, above 1 "
                    "unlikely ones do.",
                ),
                io.Float.Input(
                    "top_p",
                    default=0.95,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="For sample only: draw from the likeliest words that together have "
                    "this probability.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    optional=True,
                    tooltip="For sample only: the same seed draws the same words for the same "
                    "picture of a batch, whatever the batch size.",
                ),
                io.Combo.Input(
                    "language",
                    options=LANGUAGES,
                    default=ENGLISH,
                    optional=True,
                    tooltip="The brief and detailed prompts ask for this language. Kosmos-2 itself "
                    "knows little but English: TranslateCaption translates and keeps the boxes.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="One plain text per picture.",
                ),
                GROUNDING.Output(
                    display_name="grounding", tooltip="The captions, their phrases and boxes."
                ),
                io.Image.Output(
                    display_name="annotated",
                    tooltip="The pictures with boxes, labels and captions drawn.",
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="1 inside any box, one mask per picture."
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="For each picture its boxes, [x0, y0, x1, y1] in pixels.",
                ),
                io.String.Output(
                    display_name="json",
                    is_output_list=True,
                    tooltip="For each picture its caption, phrases and boxes (in 0..1) as JSON.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        kosmos: Kosmos,
        image: torch.Tensor,
        style: str,
        prompt: str,
        max_new_tokens: int,
        batch_size: int,
        decoding: str = "greedy",
        beams: int = 4,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
        language: str = ENGLISH,
    ) -> io.NodeOutput:
        """Describe the pictures."""
        from ..drawing.boxes import boxes_to_mask, draw_boxes_batch
        from ..kosmos.box_conversion import boxes_to_pixels
        from ..kosmos.files.grounding_json import grounded_text_to_dict, grounded_text_to_json
        from ..kosmos.generate.caption import BRIEF, DETAILED, caption
        from ..kosmos.generate.decoding import GREEDY, Decoding
        from ..kosmos.grounding import Grounding

        if style == "custom" and not prompt.strip():
            raise UserError(
                'The prompt is empty: write one, or choose the style "brief" or "detailed".'
            )
        if style != "custom":
            prompt = BRIEF if style == "brief" else DETAILED
            prompt = prompt_in(language, prompt, detailed=style == "detailed")
        ways = {
            "greedy": GREEDY,
            "beam": Decoding(beams=beams),
            "sample": Decoding(temperature=temperature, top_p=top_p, seed=seed),
        }
        host.load_to_device(kosmos.patcher)
        seen = caption(
            kosmos,
            image,
            prompt,
            decoding=ways[decoding],
            max_new_tokens=max_new_tokens,
            batching=watched(len(image), batch_size),
        )
        check_language(language, [grounded.caption for grounded in seen])
        height, width = image.shape[1:3]
        return io.NodeOutput(
            [grounded.caption for grounded in seen],
            Grounding(tuple(seen)),
            draw_boxes_batch(image, seen),
            torch.stack([boxes_to_mask(grounded, height, width) for grounded in seen]),
            [boxes_to_pixels(grounded.boxes, width, height) for grounded in seen],
            [grounded_text_to_json(grounded, width, height) for grounded in seen],
            ui={
                "grounded": [
                    picture | grounded_text_to_dict(grounded, width, height)
                    for picture, grounded in zip(panel_data.pictures(image), seen, strict=True)
                ]
            },
        )
