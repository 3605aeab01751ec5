"""The node that samples images from prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..diffusion.sample.prompt_syntax import COMFYUI, SYNTAXES
from ..diffusion.sample.schedulers import SCHEDULERS
from ..shared.errors import UserError
from . import host
from .sampling_inputs import cfg_scale_input, sampling_progress, sampling_steps_input
from .seed_input import seed_input
from .sockets import DIFFUSION, GUIDANCE
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..diffusion.sample.guidance import GuidanceOptions
    from ..diffusion.sample.img2img_input import Img2ImgInput


class CFGSampler(io.ComfyNode):
    """txt2img, img2img and inpainting with classifier-free guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="CFGSampler",
            display_name="CFG Sampler",
            category="Kosmos DreamBooth/generate",
            search_aliases="cfg, ksampler, classifier-free guidance, txt2img, img2img, inpaint, "
            "sample, generate image",
            advanced="scheduler prompt_syntax",
            essentials_category="Image Generation",
            description="Generates images from prompts (txt2img) with classifier-free guidance. "
            "With an image it does img2img, with an image and a mask inpainting.",
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model to sample with."),
                io.String.Input(
                    "prompt",
                    default="a dog in the snow",
                    multiline=True,
                    tooltip="The prompts, one per line; each line gives count images.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="Negative prompt; has an effect only with guidance above 1.",
                ),
                sampling_steps_input(25),
                cfg_scale_input(4.0),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default="ddim",
                    tooltip="Sampler (noise scheduler). ddim works with every model; plms cannot "
                    "be used with zero-terminal-SNR models such as the sandbox.",
                ),
                seed_input(
                    "Seed of the first image, which increases by 1 for each image. An image "
                    "depends only on its own seed, not on the batch.",
                    randomize=True,
                ),
                io.Int.Input("count", default=1, min=1, max=1024, tooltip="Images per prompt."),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=16384,
                        step=8,
                        tooltip=f"{side.capitalize()} in pixels; 0 = the resolution the model was "
                        "trained on.",
                    )
                    for side in ("width", "height")
                ),
                GUIDANCE.Input(
                    "guidance_options",
                    optional=True,
                    tooltip="From Guidance Options: CFG rescale, guidance interval and schedule.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Input of img2img: one image for all prompts, or one for each. Width "
                    "and height are those of the image.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Inpainting mask of the image's size: 1 (white) is generated, 0 "
                    "(black) keeps the image's pixels unchanged.",
                ),
                io.Float.Input(
                    "denoise",
                    default=0.75,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Denoising strength of img2img: low values keep the image, and fewer "
                    "of the steps are run. 1 generates the masked area from noise. Not used "
                    "without image.",
                ),
                io.Combo.Input(
                    "prompt_syntax",
                    options=list(SYNTAXES),
                    default=COMFYUI,
                    optional=True,
                    tooltip="comfyui: (words:1.3) are weights and embedding:name is a textual "
                    "inversion, as in CLIP Text Encode. plain: every character is text. Prompts "
                    "may have any length in both.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The generated images, prompt after prompt."
                ),
                io.String.Output(
                    display_name="prompts",
                    is_output_list=True,
                    tooltip="The prompt of each image.",
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="The latents of the images, for core's nodes."
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
        prompt_syntax: str = COMFYUI,
    ) -> io.NodeOutput:
        """Generate `count` images for each line of the prompt."""
        from ..diffusion.sample.guidance import DEFAULT_GUIDANCE
        from ..diffusion.sample.sample_images import consecutive_seeds, sample_batches
        from ..diffusion.sample.sample_settings import SampleSettings

        lines = text_lines(prompt)
        if image is not None and len(lines) == 1:
            lines = lines * len(image)
        prompts = [line for line in lines for _ in range(count)]
        img2img = _img2img_input(image, mask, denoise, len(lines), count)
        batches = list(
            sample_batches(
                diffusion,
                prompts,
                consecutive_seeds(seed, len(prompts)),
                SampleSettings(
                    negative.strip(), steps, guidance, scheduler, width, height, prompt_syntax
                ),
                options=guidance_options or DEFAULT_GUIDANCE,
                img2img=img2img,
                read_embedding=host.read_embedding,
                on_step=sampling_progress(),
            )
        )
        latents = torch.cat([batch.latents for batch in batches])
        return io.NodeOutput(
            torch.cat([batch.images for batch in batches]),
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
    """Return the image and mask of each of `lines` prompts, each repeated `count` times."""
    from ..diffusion.sample.img2img_input import Img2ImgInput

    if image is None:
        if mask is not None:
            raise UserError("There is a mask but no image: connect the image to inpaint.")
        return None
    for name, batch in (("images", image), ("masks", mask)):
        if batch is not None and len(batch) not in (1, lines):
            raise UserError(
                f"There are {len(batch)} {name} for {lines} prompts: give one for all, or one for "
                "each prompt."
            )
    index = torch.arange(lines).repeat_interleave(count)
    return Img2ImgInput(
        image[index % len(image)],
        None if mask is None else mask[index % len(mask)],
        denoise,
    )
