"""The node that captions images and boxes what the captions name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..kosmos.generate.language import ENGLISH, check_language
from ..kosmos.kosmos_model import Kosmos
from . import host, panel_data
from .batch_inputs import batch_options, batch_size_input
from .caption_inputs import caption_language_input, caption_prompt, prompt_inputs
from .seed_input import seed_input
from .sockets import BBOX, GROUNDING, KOSMOS, bboxes_output

if TYPE_CHECKING:
    pass


class GroundedCaption(io.ComfyNode):
    """Grounded captions of a batch of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GroundedCaption",
            display_name="Grounded Caption",
            category="Kosmos DreamBooth/vision",
            search_aliases="caption, florence, blip, image to text, describe image, interrogate, "
            "tagger, grounding, bounding box",
            advanced="batch_size decoding beams temperature top_p seed",
            essentials_category="Image Tools",
            has_intermediate_output=True,
            description="Captions every image of a batch, and returns a box for each thing that "
            "the caption names (grounding).",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One image or a batch, of any size."),
                *prompt_inputs(),
                io.Int.Input(
                    "max_new_tokens",
                    default=128,
                    min=1,
                    max=1024,
                    tooltip="Longest caption in tokens; a word is about one token, a box takes 4.",
                ),
                batch_size_input("Images"),
                io.Combo.Input(
                    "decoding",
                    options=["greedy", "beam", "sample"],
                    default="greedy",
                    optional=True,
                    tooltip="greedy: the most probable token each time. beam: beam search, slower "
                    "and often better. sample: tokens are drawn at random, so a different seed "
                    "gives a different caption.",
                ),
                io.Int.Input(
                    "beams",
                    default=4,
                    min=2,
                    max=32,
                    optional=True,
                    tooltip="For beam only: number of beams. Memory and time grow with it.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.8,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    optional=True,
                    tooltip="For sample only: below 1 the captions vary less, above 1 more.",
                ),
                io.Float.Input(
                    "top_p",
                    default=0.95,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="For sample only (nucleus sampling): draw from the most probable "
                    "tokens that together have this probability. 1: from all.",
                ),
                seed_input(
                    "For sample only: a different seed gives a different caption. The batch size "
                    "does not change the result.",
                    optional=True,
                ),
                caption_language_input(),
            ],
            outputs=[
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="One plain text per image.",
                ),
                GROUNDING.Output(
                    display_name="grounding", tooltip="The captions, their phrases and boxes."
                ),
                io.Image.Output(
                    display_name="annotated",
                    tooltip="The images with boxes, labels and captions drawn.",
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="1 inside any box, one mask per image."
                ),
                BBOX.Output(
                    display_name="bbox",
                    is_output_list=True,
                    tooltip="The boxes of each image, [x0, y0, x1, y1] in pixels.",
                ),
                io.String.Output(
                    display_name="json",
                    is_output_list=True,
                    tooltip="Caption, phrases and boxes (in 0..1) of each image as JSON.",
                ),
                bboxes_output("The boxes for core's nodes, labeled with their phrases."),
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
        """Caption the images."""
        from ..drawing.boxes import boxes_to_mask, draw_boxes_batch
        from ..kosmos.box_conversion import bounding_boxes, boxes_to_pixels
        from ..kosmos.files.grounding_json import grounded_text_to_dict, grounded_text_to_json
        from ..kosmos.generate.caption import caption
        from ..kosmos.generate.decoding import GREEDY, Decoding
        from ..kosmos.grounding import Grounding

        prompt = caption_prompt(style, prompt, language)
        decodings = {
            "greedy": GREEDY,
            "beam": Decoding(beams=beams),
            "sample": Decoding(temperature=temperature, top_p=top_p, seed=seed),
        }
        host.load_to_device(kosmos.patcher)
        texts = caption(
            kosmos,
            image,
            prompt,
            decoding=decodings[decoding],
            max_new_tokens=max_new_tokens,
            batching=batch_options(len(image), batch_size),
        )
        check_language(language, [text.caption for text in texts])
        height, width = image.shape[1:3]
        return io.NodeOutput(
            [text.caption for text in texts],
            Grounding(tuple(texts)),
            draw_boxes_batch(image, texts),
            torch.stack([boxes_to_mask(text.boxes, height, width) for text in texts]),
            [boxes_to_pixels(text.boxes, width, height) for text in texts],
            [grounded_text_to_json(text, width, height) for text in texts],
            bounding_boxes([text.labeled_boxes for text in texts], [(width, height)] * len(texts)),
            ui={
                "grounded": [
                    address | grounded_text_to_dict(text, width, height)
                    for address, text in zip(panel_data.image_addresses(image), texts, strict=True)
                ]
            },
        )
