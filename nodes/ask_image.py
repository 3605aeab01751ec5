"""The node that answers questions about images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host
from .batch_inputs import batch_options, batch_size_input
from .sockets import KOSMOS
from .text_inputs import required_lines

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos

SHOWN = 50
"""Answers that the node itself shows."""


class AskImage(io.ComfyNode):
    """Visual question answering for a batch of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="AskImage",
            display_name="Ask Image",
            category="Kosmos DreamBooth/vision",
            search_aliases="vqa, visual question answering, question, image to text, florence, vlm",
            advanced="max_new_tokens batch_size",
            description="Answers questions about every image of a batch (visual question "
            "answering). Each image is encoded once, however many questions there are.",
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One image or a batch, of any size."),
                io.String.Input(
                    "questions",
                    default="what is in the picture?\nis there a dog?",
                    multiline=True,
                    tooltip="One question per line. The sandbox understands 'what is in the "
                    "picture?', 'is there a dog?', 'what colour is the dog?', 'what is left of the "
                    "dog?' (or right) and 'how many are there?'.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Longest answer in tokens; a word is about one token.",
                ),
                batch_size_input("Questions"),
            ],
            outputs=[
                io.String.Output(
                    display_name="answers",
                    is_output_list=True,
                    tooltip="An answer for each question, image after image.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        kosmos: Kosmos,
        image: torch.Tensor,
        questions: str,
        max_new_tokens: int,
        batch_size: int,
    ) -> io.NodeOutput:
        """Answer the questions."""
        from ..kosmos.generate.ask import ask

        lines = required_lines(questions, "question")
        host.load_to_device(kosmos.patcher)
        answers = ask(
            kosmos,
            image,
            lines,
            max_new_tokens=max_new_tokens,
            batching=batch_options(len(image) * len(lines), batch_size),
        )
        report = [
            f"{f'image {k}: ' if len(image) > 1 else ''}{line} {answer}"
            for k, of_image in enumerate(answers, start=1)
            for line, answer in zip(lines, of_image, strict=True)
        ]
        if len(report) > SHOWN:
            report[SHOWN:] = [f"... and {len(report) - SHOWN} more"]
        host.show_text("\n".join(report))
        return io.NodeOutput([answer for of_image in answers for answer in of_image])
