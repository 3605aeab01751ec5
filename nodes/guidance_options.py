"""The node with the options of classifier-free guidance."""

from __future__ import annotations

from comfy_api.latest import io

from ..diffusion.sample.guidance import SCHEDULES
from ..diffusion.sample.guidance import GuidanceOptions as Options
from . import host
from .sockets import GUIDANCE


class GuidanceOptions(io.ComfyNode):
    """Options for CFGSampler and GuidanceGuider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="GuidanceOptions",
            display_name="Guidance Options",
            category="Kosmos DreamBooth/generate",
            search_aliases="cfg, cfg rescale, guidance interval, zero init, "
            "classifier-free guidance",
            description="Options of classifier-free guidance: CFG rescale, the interval of steps "
            "with guidance, a schedule of the CFG scale and zero-init. The defaults are plain CFG.",
            inputs=[
                io.Float.Input(
                    "rescale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="CFG rescale (Lin et al. 2023): how much of the contrast that guidance "
                    "adds is removed; 0 = off, 0.7 is usual for zero-terminal-SNR models.",
                ),
                io.Float.Input(
                    "interval_start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Start of the guidance interval, as a fraction of the sampling "
                    "process: 0 is pure noise. Steps outside the interval take half the time. 0.2 "
                    "keeps the images diverse.",
                ),
                io.Float.Input(
                    "interval_end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="End of the guidance interval; 1 is the finished image. The last steps "
                    "hardly need guidance: 0.8 gives similar images in less time.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="constant",
                    tooltip="CFG scale over the steps. constant: the same in every step. linear, "
                    "cosine: rising, with the same mean.",
                ),
                io.Int.Input(
                    "zero_init_steps",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Zero-init (CFG-Zero*): number of first steps whose prediction is "
                    "replaced by zero, because it is worst there. For flow models, where 1 is "
                    "usual; 0 = off.",
                ),
            ],
            outputs=[
                GUIDANCE.Output(
                    display_name="guidance_options",
                    tooltip="For CFG Sampler or Guidance Guider.",
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
        """Check the options and return them."""
        return io.NodeOutput(
            Options(rescale, interval_start, interval_end, schedule, zero_init_steps)
        )
