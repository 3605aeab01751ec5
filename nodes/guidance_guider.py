"""GUIDER for core's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..diffusion.sample.guidance import DEFAULT_GUIDANCE, require_scale
from ..diffusion.sample.guidance import GuidanceOptions as Options
from . import host
from .sockets import GUIDANCE


class GuidanceGuider(io.ComfyNode):
    """GUIDER for core's SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GuidanceGuider",
            display_name="Guidance Guider",
            category="Kosmos DreamBooth/generate",
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
        guider = host.Guider(model, guidance, guidance_options or DEFAULT_GUIDANCE)
        guider.set_conds(positive, negative)
        return io.NodeOutput(guider)
