"""Nodes that look at pictures: load Kosmos-2, and let it describe a batch with boxes."""

from __future__ import annotations

import dataclasses

import torch
from comfy_api.latest import io

from .. import sandbox
from ..errors import MendableError
from ..kosmos.model import Kosmos
from . import host
from .sockets import GROUNDING, KOSMOS

SANDBOX = "sandbox"
HUB_IDS = ["microsoft/kosmos-2-patch14-224"]


class LoadKosmos(io.ComfyNode):
    """Loads a Kosmos-2 and hands it to ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the combo lists models/kosmos as it is now."""
        found = host.list_models("kosmos")
        return io.Schema(
            node_id="LoadKosmos",
            display_name="Load Kosmos-2",
            category="Kosmos DreamBooth/look",
            description="Loads Kosmos-2, a model that describes pictures and points at what it "
            "names.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(dict.fromkeys([SANDBOX, *found, *HUB_IDS])),
                    default=SANDBOX,
                    tooltip='"sandbox" is the small model that comes with the pack and knows its '
                    "drawn world only. Then come the folders in models/kosmos. "
                    "microsoft/kosmos-2-patch14-224 is downloaded on first use (6.7 GB).",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", "fp32", "fp16", "bf16"],
                    default="auto",
                    tooltip="Precision of the weights. auto: fp32 on a CPU, half on a GPU.",
                ),
                io.Combo.Input(
                    "attention",
                    options=["auto", "sdpa", "eager"],
                    default="auto",
                    tooltip="How attention is computed. auto: sdpa, PyTorch's fused attention. "
                    "eager is slower and takes more memory, but computes every step openly.",
                ),
            ],
            outputs=[KOSMOS.Output(display_name="kosmos", tooltip="The loaded model.")],
        )

    @classmethod
    def execute(cls, model: str, dtype: str, attention: str) -> io.NodeOutput:
        """Load the chosen model."""
        from ..kosmos.load import fetch, load_kosmos

        if model == SANDBOX:
            folder = sandbox.KOSMOS
        elif model in HUB_IDS and model not in host.list_models("kosmos"):
            folder = fetch(model)
        else:
            folder = host.resolve("kosmos", model)
        kosmos = load_kosmos(folder, host.torch_dtype(dtype), attention)
        home = host.adopt(kosmos.model)
        return io.NodeOutput(dataclasses.replace(kosmos, name=model, home=home))


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
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Pictures at a time. 0: as many as the free memory suggests. When "
                    "memory runs out, batches are halved and the work goes on.",
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
    ) -> io.NodeOutput:
        """Describe the pictures."""
        from ..kosmos.batches import Pace
        from ..kosmos.caption import BRIEF, DETAILED, caption
        from ..kosmos.draw import draw_batch, mask
        from ..kosmos.grounding import Grounding

        if style == "custom" and not prompt.strip():
            raise MendableError(
                'The prompt is empty: write one, or choose the style "brief" or "detailed".'
            )
        host.bring_in(kosmos.home)
        progress = host.Progress(len(image))
        seen = caption(
            kosmos,
            image,
            {"brief": BRIEF, "detailed": DETAILED, "custom": prompt}[style],
            max_new_tokens=max_new_tokens,
            pace=Pace(
                batch_size=batch_size,
                free_memory=host.free_memory(),
                on_batch=lambda done, _: progress.step(done),
                on_token=host.check_interrupted,
            ),
        )
        height, width = image.shape[1:3]
        return io.NodeOutput(
            [grounded.caption for grounded in seen],
            Grounding(tuple(seen)),
            draw_batch(image, seen),
            torch.stack([mask(grounded, height, width) for grounded in seen]),
        )
