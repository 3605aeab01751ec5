"""Paint pictures from prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...shared.batching import in_batches
from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from .denoise import Conditioning, OnStep, denoise
from .guidance import PLAIN, GuidanceOptions
from .img2img_input import Img2ImgInput
from .latent_preview import decode
from .prompt_encoding import PromptEmbeds, encode_prompts
from .sample_settings import SampleSettings
from .schedulers import make_scheduler

REMEDY = "choose a smaller width and height"
"""What to do when the memory does not suffice for one image."""

CPU_LATENT_PIXELS = 64 * 64
"""Latent pixels in the first batch that is tried on a CPU: one full-size image uses all cores."""

GPU_LATENT_PIXELS = 16 * CPU_LATENT_PIXELS
"""The same on a GPU, where halving finds what its memory holds."""


@dataclass(frozen=True)
class SampledImages:
    """Consecutive finished pictures of a run.

    first: index of the first of them. pictures: [b,H,W,3] float32 0..1 on the CPU.
    latents: [b,C,H/f,W/f] float32 on the CPU, scaled by the VAE's scaling factor.
    """

    first: int
    pictures: torch.Tensor
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
    """Paint one picture for each prompt; picture i has the seed `seed + i`.

    Returns [len(prompts),H,W,3] float32 0..1 on the CPU, an ordinary tensor even under
    `torch.inference_mode`. `sample_batches` says what the rest means.
    """
    settings = SampleSettings(negative, steps, guidance, scheduler, width, height)
    seeds = consecutive_seeds(seed, len(prompts))
    parts = sample_batches(
        diffusion, prompts, seeds, settings, batch_size=batch_size, on_step=on_step
    )
    return torch.cat([part.pictures for part in parts])


def consecutive_seeds(seed: int, count: int) -> list[int]:
    """`seed`, `seed + 1` and so on, kept within 64 bits."""
    return [(seed + i) % 2**64 for i in range(count)]


def sample_batches(
    diffusion: Diffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SampleSettings,
    *,
    options: GuidanceOptions = PLAIN,
    canvas: Img2ImgInput | None = None,
    batch_size: int = 0,
    on_step: OnStep | None = None,
) -> Iterator[SampledImages]:
    """Paint picture i from `prompts[i]` and `seeds[i]`, and yield every batch when it is finished.

    A picture depends on its prompt, its seed and the settings, not on the batch that it is in or
    the device: all of its noise comes from its own generator on the CPU.

    options: how the guidance changes on the way.
    canvas: pictures to start from, one for each prompt, which give the size.
    batch_size: pictures at once; 0 takes as many as seem to fit. Either is halved when memory
        runs out.
    on_step: called after each step as on_step(done, total, preview), counted in steps of single
        pictures, with a preview [h,w,3] float 0..1 of the batch's first picture. An exception
        that it raises ends the run.

    Raises UserError for settings, prompts or pictures that the model cannot serve.
    """
    if not prompts:
        raise UserError("There is no prompt: write at least one line of text.")
    width, height = settings.size_for(diffusion)
    if canvas is not None:
        width, height = canvas.size_for(diffusion, settings)
        canvas.first_step(settings.steps)
    cells = (height // diffusion.vae_factor, width // diffusion.vae_factor)
    make_scheduler(settings.scheduler, diffusion.scheduler_config)
    said = encode_prompts(diffusion, [*prompts, settings.negative])

    def work(part: slice) -> list[SampledImages]:
        told = Conditioning(
            PromptEmbeds.join([said[prompt] for prompt in prompts[part]]), said[settings.negative]
        )
        under = canvas[part] if canvas else None
        report = None
        if on_step is not None:
            report = _scaled_report(on_step, part, len(prompts), settings.steps)
        latents = denoise(diffusion, told, seeds[part], cells, settings, options, under, report)
        pictures = _finished_pictures(diffusion, latents)
        if under is not None:
            pictures = under.keep_outside(pictures)
        return [SampledImages(part.start, pictures, latents.cpu())]

    size = batch_size or first_batch(diffusion.device, cells[0] * cells[1])
    yield from in_batches(len(prompts), size, work, remedy=REMEDY)


def first_batch(device: torch.device, latent_pixels: int) -> int:
    """Return how many images of `latent_pixels` each to try at a time."""
    limit = CPU_LATENT_PIXELS if device.type == "cpu" else GPU_LATENT_PIXELS
    return max(1, limit // latent_pixels)


def _scaled_report(on_step: OnStep, part: slice, count: int, steps: int) -> OnStep:
    """Turn a batch's own "step d of n" into steps of single pictures in the whole run."""

    def report(done: int, total: int, preview: torch.Tensor) -> None:
        finished = part.start + (part.stop - part.start) * done / total
        on_step(round(finished * steps), count * steps, preview)

    return report


@torch.inference_mode(False)
@torch.no_grad()
def _finished_pictures(diffusion: Diffusion, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to pictures [N,H,W,3]; UserError if they are not numbers."""
    size = first_batch(diffusion.device, latents[0, 0].numel())

    def work(batch: slice) -> torch.Tensor:
        return decode(diffusion.vae, latents[batch])

    pictures = torch.stack(list(in_batches(len(latents), size, work, remedy=REMEDY)))
    if not pictures.isfinite().all():
        raise UserError(
            f"{diffusion.name} made pictures that are not numbers in {diffusion.dtype}: load it "
            "with dtype fp32 or bf16."
        )
    return pictures
