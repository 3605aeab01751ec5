"""Generate images from prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...shared.batching import in_batches
from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from .denoise import Conditioning, OnStep, denoise
from .guidance import DEFAULT_GUIDANCE, GuidanceOptions
from .img2img_input import Img2ImgInput
from .latent_preview import decode_latents
from .prompt_encoding import PromptEmbeds, ReadEmbedding, encode_prompts
from .sample_settings import REMEDY, SampleSettings
from .schedulers import make_scheduler

CPU_LATENT_PIXELS = 64 * 64
"""Latent pixels in the first batch that is tried on a CPU: one full-size image uses all cores."""

GPU_LATENT_PIXELS = 16 * CPU_LATENT_PIXELS
"""The same on a GPU, where halving finds what its memory holds."""


@dataclass(frozen=True)
class SampledImages:
    """One finished batch of a sampling run.

    first: index in the run of the batch's first image.
    images: [b,H,W,3] float32 0..1 on the CPU.
    latents: [b,C,H/f,W/f] float32 on the CPU, multiplied by the VAE's scaling factor.
    """

    first: int
    images: torch.Tensor
    latents: torch.Tensor


@torch.inference_mode(False)
def sample(
    diffusion: Diffusion,
    prompts: Sequence[str],
    *,
    negative: str = "",
    steps: int = 25,
    guidance: float = 5.0,
    seed: int = 0,
    scheduler: str = "ddim",
    width: int = 0,
    height: int = 0,
    batch_size: int = 0,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Generate one image per prompt; image i has the seed `seed + i`.

    Returns [len(prompts),H,W,3] float32 0..1 on the CPU, an ordinary tensor even under
    `torch.inference_mode`. For the other parameters see `SampleSettings` and `sample_batches`.
    """
    settings = SampleSettings(negative, steps, guidance, scheduler, width, height)
    seeds = consecutive_seeds(seed, len(prompts))
    batches = sample_batches(
        diffusion, prompts, seeds, settings, batch_size=batch_size, on_step=on_step
    )
    return torch.cat([batch.images for batch in batches])


def consecutive_seeds(seed: int, count: int) -> list[int]:
    """Return `seed`, `seed + 1`, ..., modulo 2**64."""
    return [(seed + i) % 2**64 for i in range(count)]


def sample_batches(
    diffusion: Diffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SampleSettings,
    *,
    options: GuidanceOptions = DEFAULT_GUIDANCE,
    img2img: Img2ImgInput | None = None,
    read_embedding: ReadEmbedding | None = None,
    batch_size: int = 0,
    on_step: OnStep | None = None,
) -> Iterator[SampledImages]:
    """Generate image i from `prompts[i]` and `seeds[i]`, and yield each batch when it is finished.

    An image depends on its prompt, its seed and the settings, not on its batch or the device: all
    its noise is drawn on the CPU by a generator of its own.

    options: guidance rescale, interval, schedule and zero init.
    img2img: start images, one per prompt, which determine the size.
    read_embedding: finds `embedding:name` of a prompt; see `encode_prompts`.
    batch_size: images per batch, 0 for automatic; halved when memory runs out.
    on_step: called after each step as on_step(completed, total, preview), counted in denoising
        steps over all images, with a preview [h,w,3] float 0..1 of the batch's first image. An
        exception that it raises ends the run.

    Raises UserError for settings or images that the model does not support.
    """
    if not prompts:
        raise UserError("There is no prompt: write at least one line of text.")
    width, height = settings.size_for(diffusion)
    if img2img is not None:
        width, height = img2img.size_for(diffusion, settings)
        img2img.skipped_steps(settings.steps)
    latent_size = (height // diffusion.vae_factor, width // diffusion.vae_factor)
    make_scheduler(settings.scheduler, diffusion.scheduler_config)
    embeds = encode_prompts(
        diffusion, [*prompts, settings.negative], settings.prompt_syntax, read_embedding
    )

    def work(part: slice) -> list[SampledImages]:
        conditioning = Conditioning(
            PromptEmbeds.join([embeds[prompt] for prompt in prompts[part]]),
            embeds[settings.negative],
        )
        source = img2img[part] if img2img else None
        progress = None
        if on_step is not None:
            progress = _run_progress(on_step, part, len(prompts), settings.steps)
        latents = denoise(
            diffusion, conditioning, seeds[part], latent_size, settings, options, source, progress
        )
        images = _decode_images(diffusion, latents)
        if source is not None:
            images = source.restore_unmasked(images)
        return [SampledImages(part.start, images, latents.cpu())]

    size = batch_size or initial_batch_size(diffusion.device, latent_size[0] * latent_size[1])
    yield from in_batches(len(prompts), size, work, remedy=REMEDY)


def initial_batch_size(device: torch.device, latent_pixels: int) -> int:
    """Return the first batch size to try for images of `latent_pixels` (h * w) each."""
    limit = CPU_LATENT_PIXELS if device.type == "cpu" else GPU_LATENT_PIXELS
    return max(1, limit // latent_pixels)


def _run_progress(on_step: OnStep, part: slice, count: int, steps: int) -> OnStep:
    """Convert the progress of one batch into denoising steps over all `count` images."""

    def report(completed: int, total: int, preview: torch.Tensor) -> None:
        finished = part.start + (part.stop - part.start) * completed / total
        on_step(round(finished * steps), count * steps, preview)

    return report


@torch.inference_mode(False)
@torch.no_grad()
def _decode_images(diffusion: Diffusion, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to images [N,H,W,3]; raises UserError for NaN or infinite values."""
    diffusion.load("vae")
    size = initial_batch_size(diffusion.vae.device, latents[0, 0].numel())

    def work(part: slice) -> torch.Tensor:
        return decode_latents(diffusion.vae, latents[part])

    images = torch.stack(list(in_batches(len(latents), size, work, remedy=REMEDY)))
    if not images.isfinite().all():
        raise UserError(
            f"{diffusion.name} generated images with NaN or infinite values in {diffusion.dtype}: "
            "load it with dtype fp32 or bf16."
        )
    return images
