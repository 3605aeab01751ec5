"""GUIDANCE for CFGSampler and GuidanceGuider."""

from __future__ import annotations

from comfy_api.latest import io

from ..diffusion.sample.guidance import SCHEDULES
from ..diffusion.sample.guidance import GuidanceOptions as Options
from .sockets import GUIDANCE


class GuidanceOptions(io.ComfyNode):
    """GUIDANCE for CFGSampler and GuidanceGuider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="GuidanceOptions",
            display_name="Guidance Options",
            category="Kosmos DreamBooth/generate",
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
