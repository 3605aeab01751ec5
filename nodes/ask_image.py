"""Answers questions about pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host
from .batch_inputs import batch_size_input, watched
from .sockets import KOSMOS
from .text_inputs import required_lines

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos

CATEGORY = "Kosmos DreamBooth/look"


class AskImage(io.ComfyNode):
    """Answers questions about pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="AskImage",
            display_name="Ask Image",
            category=CATEGORY,
            description="Answers questions about every picture of a batch. Each picture is looked "
            "at once, however many the questions.",
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One picture or a batch, of any size."),
                io.String.Input(
                    "questions",
                    default="how many are there?",
                    multiline=True,
                    tooltip="One question a line. The sandbox understands 'what colour is the "
                    "dog?' and 'how many are there?'.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Where an answer is cut off at the latest. A word is about one token.",
                ),
                batch_size_input("Questions"),
            ],
            outputs=[
                io.String.Output(
                    display_name="answers",
                    is_output_list=True,
                    tooltip="Picture after picture, an answer for each question.",
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

        asked = required_lines(questions, "question")
        host.load_to_device(kosmos.patcher)
        answers = ask(
            kosmos,
            image,
            asked,
            max_new_tokens=max_new_tokens,
            batching=watched(len(image) * len(asked), batch_size),
        )
        return io.NodeOutput([answer for each in answers for answer in each])
