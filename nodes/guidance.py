"""Guidance that changes while a picture is painted."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..diffusion.sample.guidance import PLAIN, SCHEDULES, require_scale
from ..diffusion.sample.guidance import GuidanceOptions as Options
from . import host
from .sockets import GUIDANCE

CATEGORY = "Kosmos DreamBooth/generate"


class GuidanceOptions(io.ComfyNode):
    """GUIDANCE for CFGSampler and GuidanceGuider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GuidanceOptions",
            display_name="Guidance Options",
            category=CATEGORY,
            description="Says where on the way from noise to picture guidance works, how strongly, "
            "and how much of the contrast that it adds is taken back. The defaults change nothing.",
            inputs=[
                io.Float.Input(
                    "rescale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the contrast that guidance adds is taken back; 0 is off, "
                    "0.7 is usual for models that start from pure noise.",
                ),
                io.Float.Input(
                    "interval_start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance works from here on; 0 is pure noise. Before, and after the "
                    "end, each step takes half the work. 0.2 keeps pictures diverse.",
                ),
                io.Float.Input(
                    "interval_end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance works up to here; 1 is the finished picture. The last steps "
                    "hardly need it: 0.8 looks the same in less time.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="constant",
                    tooltip="constant, or a guidance that rises on the way (linear, cosine) and is "
                    "as strong on average.",
                ),
                io.Int.Input(
                    "zero_init_steps",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="The model is not asked at so many first steps, where its answer is "
                    "worst; made for flow models, where 1 is usual.",
                ),
            ],
            outputs=[
                GUIDANCE.Output(
                    display_name="guidance_options",
                    tooltip="For CFGSampler or GuidanceGuider.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        rescale: float,
        interval_start: float,
        interval_end: float,
        schedule: str,
        zero_init_steps: int,
    ) -> io.NodeOutput:
        """Check the options and pass them on."""
        return io.NodeOutput(
            Options(rescale, interval_start, interval_end, schedule, zero_init_steps)
        )


class GuidanceGuider(io.ComfyNode):
    """GUIDER for core's SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GuidanceGuider",
            display_name="Guidance Guider",
            category=CATEGORY,
            description="Guidance Options for any model of ComfyUI's own, in Sampler Custom "
            "Advanced: rescale, an interval outside which each step takes half the work, a "
            "schedule and zero-init.",
            inputs=[
                io.Model.Input("model", tooltip="Any model, also one from To Comfy Model."),
                io.Conditioning.Input("positive", tooltip="What to paint."),
                io.Conditioning.Input("negative", tooltip="What to steer away from."),
                io.Float.Input(
                    "guidance",
                    default=4.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strictly to follow the positive prompt; 1 is without guidance and "
                    "takes half the work.",
                ),
                GUIDANCE.Input(
                    "guidance_options",
                    optional=True,
                    tooltip="From GuidanceOptions; without them this is core's CFGGuider.",
                ),
            ],
            outputs=[
                io.Guider.Output(display_name="guider", tooltip="For Sampler Custom Advanced.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        guidance: float,
        guidance_options: Options | None = None,
    ) -> io.NodeOutput:
        """Make the guider, which samples when the sampler asks it to."""
        require_scale(guidance)
        guider = host.Guider(model, guidance, guidance_options or PLAIN)
        guider.set_conds(positive, negative)
        return io.NodeOutput(guider)
