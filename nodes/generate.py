"""Load a Stable Diffusion, paint class pictures with it, and paint from prompts and pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..diffusion.sample.schedulers import SCHEDULERS
from ..sandbox import DIFFUSION as SANDBOX
from ..shared.errors import UserError
from . import host
from .sockets import DIFFUSION, GUIDANCE, PRIORS

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..diffusion.sample.guidance import GuidanceOptions
    from ..diffusion.sample.images import OnStep
    from ..diffusion.sample.img2img_input import Img2ImgInput

CATEGORY = "Kosmos DreamBooth/generate"
HUB_MODELS = [
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-xl-base-1.0",
]
LAST_SEED = 2**64 - 1
LARGEST_SIDE = 16384


class LoadDiffusion(io.ComfyNode):
    """DIFFUSION from the sandbox, ComfyUI's folders or the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoadDiffusion",
            display_name="Load Diffusion",
            category=CATEGORY,
            description="Loads a Stable Diffusion model to paint with and to personalise. "
            "The sandbox is a small one that comes with the pack and runs on any computer.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[
                        "sandbox",
                        *host.list_models("diffusers"),
                        *host.list_models("checkpoints"),
                        *HUB_MODELS,
                    ],
                    default="sandbox",
                    tooltip="The sandbox, a diffusers folder in models/diffusers, a file in "
                    "models/checkpoints, or a model of the Hugging Face hub (owner/name), which is "
                    "downloaded once: of Stable Diffusion 1.x, 2.x or XL.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *host.DTYPES],
                    default="auto",
                    tooltip="Precision of the weights; auto is fp32 on a CPU and on a GPU the "
                    "half precision that it does well.",
                ),
                io.String.Input(
                    "loras",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="LoRA files in models/loras to merge into the weights, one a line.",
                ),
            ],
            outputs=[DIFFUSION.Output(display_name="diffusion", tooltip="The model.")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, model: str | None, dtype: str | None, loras: str | None = ""
    ) -> str:
        """Load again when a file was written anew; what is connected is not known yet."""
        files = [host.resolve("loras", name) for name in _lines(loras or "")]
        place = _find(model) if model else ""
        if isinstance(place, Path):
            files += sorted(place.rglob("*.safetensors")) if place.is_dir() else [place]
        return str([file.stat().st_mtime_ns for file in files])

    @classmethod
    def execute(cls, model: str, dtype: str, loras: str = "") -> io.NodeOutput:
        """Load the model into ComfyUI's memory management."""
        from ..diffusion.load.model_source import load_diffusion
        from ..diffusion.merge_lora import merge_lora
        from ..quantize.quantize_weights import require_plain
        from ..quantize.quantized_linear import quicken
        from ..quantize.save_quantized import precision_of_rest

        files = [host.resolve("loras", name) for name in _lines(loras)]
        place = _find(model)
        rest = precision_of_rest(place) if isinstance(place, Path) else None
        diffusion = load_diffusion(place, rest or host.torch_dtype(dtype), host.clip_vocabulary())
        diffusion = replace(diffusion, name=model)
        if rest is not None:
            quicken(diffusion.modules, model, host.device_type())
        if files:
            require_plain(diffusion.modules, model, "merge LoRAs into the model as it was before")
        for file in files:
            diffusion = merge_lora(diffusion, file)
        return io.NodeOutput(replace(diffusion, patcher=host.register_model(diffusion.modules)))


class PriorGenerator(io.ComfyNode):
    """Class pictures, kept on disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PriorGenerator",
            display_name="Prior Generator",
            category=CATEGORY,
            description="Paints pictures of the class with the model itself, so that training on "
            "a subject does not change what the model knows of its class. They are kept in "
            "output/priors: only those that are missing are painted.",
            inputs=[
                DIFFUSION.Input("diffusion", tooltip="The model before it is trained."),
                io.String.Input(
                    "prompt",
                    default="a dog",
                    tooltip="The class without the rare token, such as: a dog",
                ),
                io.Int.Input(
                    "count", default=16, min=1, max=10000, tooltip="How many pictures to have."
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Denoising steps per picture."
                ),
                io.Float.Input(
                    "guidance",
                    default=3.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How strictly to follow the prompt; 1 is without guidance. A low "
                    "value keeps the class diverse.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=LAST_SEED,
                    control_after_generate=False,
                    tooltip="Seed of the first picture; each next one has the next seed.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pictures painted at once; 0 takes as many as fit. When memory runs "
                    "out it is halved and the work goes on.",
                ),
                io.Combo.Input(
                    "when",
                    options=["before", "during"],
                    default="before",
                    optional=True,
                    tooltip="before paints them here; during leaves it to DreamBoothTrain's own "
                    "process, which paints what is missing from the same folder before its first "
                    "step, so that ComfyUI's memory stays free.",
                ),
            ],
            outputs=[
                PRIORS.Output(
                    display_name="priors", tooltip="The pictures' files, for DreamBoothTrain."
                ),
                io.Image.Output(
                    display_name="image", tooltip="The pictures; none when they come later."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        diffusion: Diffusion,
        prompt: str,
        count: int,
        steps: int,
        guidance: float,
        seed: int,
        batch_size: int,
        when: str = "before",
    ) -> io.NodeOutput:
        """Paint what is missing, or say what will be painted."""
        from ..diffusion.priors import make_priors, plan_priors
        from ..diffusion.sample.sample_settings import SampleSettings

        if when == "during":
            planned = plan_priors(
                diffusion,
                prompt.strip(),
                count,
                host.output_folder("priors"),
                settings=SampleSettings(steps=steps, guidance=guidance),
                seed=seed,
            )
            return io.NodeOutput(
                replace(planned, later=True),
                host.block_output(
                    "The class pictures are painted in training: set PriorGenerator's when to "
                    "before to see them here."
                ),
            )
        host.load_to_device(diffusion.patcher)
        priors = make_priors(
            diffusion,
            prompt.strip(),
            count,
            host.output_folder("priors"),
            settings=SampleSettings(steps=steps, guidance=guidance),
            seed=seed,
            batch_size=batch_size,
            on_step=_show_progress(),
        )
        return io.NodeOutput(priors, priors.pictures())


class CFGSampler(io.ComfyNode):
    """Pictures from prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CFGSampler",
            display_name="CFG Sampler",
            category=CATEGORY,
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
                    tooltip="Seed of the first picture; each next one has the next seed. A "
                    "picture depends on its own seed only, not on how many are painted.",
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
        from ..diffusion.sample.guidance import PLAIN
        from ..diffusion.sample.images import consecutive_seeds, sample_batches
        from ..diffusion.sample.sample_settings import SampleSettings

        lines = _lines(prompt)
        if image is not None and len(lines) == 1:
            lines = lines * len(image)
        prompts = [line for line in lines for _ in range(count)]
        canvas = _canvas(image, mask, denoise, len(lines), count)
        host.load_to_device(diffusion.patcher)
        parts = list(
            sample_batches(
                diffusion,
                prompts,
                consecutive_seeds(seed, len(prompts)),
                SampleSettings(negative.strip(), steps, guidance, scheduler, width, height),
                options=guidance_options or PLAIN,
                canvas=canvas,
                on_step=_show_progress(),
            )
        )
        latents = torch.cat([part.latents for part in parts])
        return io.NodeOutput(
            torch.cat([part.pictures for part in parts]),
            prompts,
            {"samples": latents / diffusion.vae.config.scaling_factor},
        )


def _canvas(
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


def _lines(text: str) -> list[str]:
    """The lines that hold something, without what surrounds them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _find(model: str) -> Path | str:
    """What the combo's choice stands for: a folder, a file, or a hub id."""
    if model == "sandbox":
        return SANDBOX
    if model in HUB_MODELS:
        return model
    return host.resolve("checkpoints" if model.endswith(".safetensors") else "diffusers", model)


def _show_progress() -> OnStep:
    """A callback that starts the node's progress bar when it first hears how much there is."""
    progress: host.Progress | None = None

    def on_step(done: int, total: int, preview: torch.Tensor) -> None:
        nonlocal progress
        progress = progress or host.Progress(total)
        progress.step(done, preview)

    return on_step
