"""Pictures from prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..diffusion.sample.schedulers import SCHEDULERS
from ..shared.errors import UserError
from . import host
from .sampling_inputs import LAST_SEED, sampling_progress
from .sockets import DIFFUSION, GUIDANCE
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..diffusion.sample.guidance import GuidanceOptions
    from ..diffusion.sample.img2img_input import Img2ImgInput

LARGEST_SIDE = 16384


class CFGSampler(io.ComfyNode):
    """Pictures from prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CFGSampler",
            display_name="CFG Sampler",
            category="Kosmos DreamBooth/generate",
            description="Paints pictures from prompts with classifier-free guidance, whose two "
            "predictions are made in one pass of the model. With an image it paints over that, "
            "with a mask only there.",
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model to paint with."),
                io.String.Input(
                    "prompt",
                    default="a dog in the snow",
                    multiline=True,
                    tooltip="What to paint; each line is a prompt of its own.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="What to steer away from; needs a guidance above 1.",
                ),
                io.Int.Input(
                    "steps", default=25, min=1, max=1000, tooltip="Denoising steps per picture."
                ),
                io.Float.Input(
                    "guidance",
                    default=4.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How strictly to follow the prompt; 1 is without guidance and takes "
                    "half the work.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default="ddim",
                    tooltip="How each step moves from noise to picture. ddim suits every model; "
                    "plms cannot be used with zero-terminal-SNR models such as the sandbox.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=LAST_SEED,
                    control_after_generate=True,
                    tooltip="Seed of the first picture; each next one has the next seed. A picture "
                    "depends on its own seed only, not on how many are painted.",
                ),
                io.Int.Input(
                    "count", default=1, min=1, max=1024, tooltip="Pictures for each prompt."
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=LARGEST_SIDE,
                        step=8,
                        tooltip=f"The pictures' {side} in pixels; 0 is what the model was "
                        "trained on.",
                    )
                    for side in ("width", "height")
                ),
                GUIDANCE.Input(
                    "guidance_options",
                    optional=True,
                    tooltip="From GuidanceOptions: where guidance works, and what it may not do.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Pictures to start from: one for all, or one for each prompt. They "
                    "give the size; denoise says how much of them is painted over.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to paint over the image, of the image's size: white is painted, "
                    "black stays as it is, pixel for pixel.",
                ),
                io.Float.Input(
                    "denoise",
                    default=0.75,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much of the image is painted over; little keeps it, and takes as "
                    "little of the steps. 1 paints a mask's inside anew. Not used without image.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, prompt after prompt."),
                io.String.Output(
                    display_name="prompts",
                    is_output_list=True,
                    tooltip="Each picture's own prompt.",
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="The pictures' latents, for core's nodes."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        diffusion: Diffusion,
        prompt: str,
        negative: str,
        steps: int,
        guidance: float,
        scheduler: str,
        seed: int,
        count: int,
        width: int,
        height: int,
        guidance_options: GuidanceOptions | None = None,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        denoise: float = 0.75,
    ) -> io.NodeOutput:
        """Paint `count` pictures for each line of the prompt."""
        from ..diffusion.sample.guidance import DEFAULT_GUIDANCE
        from ..diffusion.sample.images import consecutive_seeds, sample_batches
        from ..diffusion.sample.sample_settings import SampleSettings

        lines = text_lines(prompt)
        if image is not None and len(lines) == 1:
            lines = lines * len(image)
        prompts = [line for line in lines for _ in range(count)]
        img2img = _img2img_input(image, mask, denoise, len(lines), count)
        host.load_to_device(diffusion.patcher)
        parts = list(
            sample_batches(
                diffusion,
                prompts,
                consecutive_seeds(seed, len(prompts)),
                SampleSettings(negative.strip(), steps, guidance, scheduler, width, height),
                options=guidance_options or DEFAULT_GUIDANCE,
                img2img=img2img,
                on_step=sampling_progress(),
            )
        )
        latents = torch.cat([part.latents for part in parts])
        return io.NodeOutput(
            torch.cat([part.images for part in parts]),
            prompts,
            {"samples": latents / diffusion.vae.config.scaling_factor},
        )


def _img2img_input(
    image: torch.Tensor | None,
    mask: torch.Tensor | None,
    denoise: float,
    lines: int,
    count: int,
) -> Img2ImgInput | None:
    """Give each of `lines` prompts its picture and its mask, `count` times."""
    from ..diffusion.sample.img2img_input import Img2ImgInput

    if image is None:
        if mask is not None:
            raise UserError("There is a mask but no image: connect the image to paint over.")
        return None
    for name, batch in (("images", image), ("masks", mask)):
        if batch is not None and len(batch) not in (1, lines):
            raise UserError(
                f"There are {len(batch)} {name} for {lines} prompts: give one for all, or one for "
                "each prompt."
            )
    each = torch.arange(lines).repeat_interleave(count)
    return Img2ImgInput(
        image[each % len(image)],
        None if mask is None else mask[each % len(mask)],
        denoise,
    )
