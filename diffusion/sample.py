"""Paint pictures from prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..errors import MendableError
from .batches import first_batch, in_batches
from .guidance import guidance_states, guided_prediction
from .model import Diffusion
from .preview import decode, predicted_original, previewer
from .prompts import encode_prompts
from .schedulers import SCHEDULERS, make_scheduler
from .settings import Settings

OnStep = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Painted:
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
    `torch.inference_mode`. `paint` says what the rest means.
    """
    settings = Settings(negative, steps, guidance, scheduler, width, height)
    seeds = consecutive_seeds(seed, len(prompts))
    parts = paint(diffusion, prompts, seeds, settings, batch_size=batch_size, on_step=on_step)
    return torch.cat([part.pictures for part in parts])


def consecutive_seeds(seed: int, count: int) -> list[int]:
    """`seed`, `seed + 1` and so on, kept within 64 bits."""
    return [(seed + i) % 2**64 for i in range(count)]


def paint(
    diffusion: Diffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    *,
    batch_size: int = 0,
    on_step: OnStep | None = None,
) -> Iterator[Painted]:
    """Paint picture i from `prompts[i]` and `seeds[i]`, and yield every batch when it is finished.

    A picture depends on its prompt, its seed and the settings, not on the batch that it is in or
    the device: all of its noise comes from its own generator on the CPU.

    batch_size: pictures at once; 0 takes as many as seem to fit. Either is halved when memory
        runs out.
    on_step: called after each step as on_step(done, total, preview), counted in steps of single
        pictures, with a preview [h,w,3] float 0..1 of the batch's first picture. An exception
        that it raises ends the run.

    Raises MendableError for settings or prompts that the model cannot serve.
    """
    if not prompts:
        raise MendableError("There is no prompt: write at least one line of text.")
    width, height = settings.size_for(diffusion)
    cells = (height // diffusion.vae_factor, width // diffusion.vae_factor)
    make_scheduler(settings.scheduler, diffusion.scheduler_config)
    states = encode_prompts(diffusion, [*prompts, settings.negative])

    def work(part: slice) -> Painted:
        told = torch.stack([states[prompt] for prompt in prompts[part]])
        report = None
        if on_step is not None:
            report = _scaled_report(on_step, part, len(prompts), settings.steps)
        latents = _denoise(
            diffusion, told, states[settings.negative], seeds[part], cells, settings, report
        )
        return Painted(part.start, _finished_pictures(diffusion, latents), latents.cpu())

    size = batch_size or first_batch(diffusion.device, cells[0] * cells[1])
    for _, painted in in_batches(len(prompts), size, work):
        yield painted


def _scaled_report(on_step: OnStep, part: slice, count: int, steps: int) -> OnStep:
    """Turn a batch's own "step d of n" into steps of single pictures in the whole run."""

    def report(done: int, total: int, preview: torch.Tensor) -> None:
        finished = part.start + (part.stop - part.start) * done / total
        on_step(round(finished * steps), count * steps, preview)

    return report


@torch.inference_mode(False)
@torch.no_grad()
def _denoise(
    diffusion: Diffusion,
    prompts: torch.Tensor,
    negative: torch.Tensor,
    seeds: Sequence[int],
    cells: tuple[int, int],
    settings: Settings,
    on_step: OnStep | None,
) -> torch.Tensor:
    """From noise to latents [len(seeds),C,*cells], float32 on the model's device.

    prompts: [len(seeds), tokens, width] text states; negative: [tokens, width].
    """
    device, unet = diffusion.device, diffusion.unet
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    shape = (1, unet.config.in_channels, *cells)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])

    scheduler = make_scheduler(settings.scheduler, diffusion.scheduler_config)
    scheduler.set_timesteps(settings.steps, device=device)
    fresh = {"generator": generators} if SCHEDULERS[settings.scheduler].noisy else {}
    states = guidance_states(prompts, negative, settings.guidance).to(device, unet.dtype)
    look = previewer(diffusion.vae) if on_step else None

    latents = noise.to(device) * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = guided_prediction(unet, scaled, timestep, states, settings.guidance)
        latents = scheduler.step(prediction, timestep, latents, **fresh, return_dict=False)[0]
        if on_step and look:
            original = predicted_original(scheduler, scaled, prediction, timestep)
            on_step(done, len(scheduler.timesteps), look(original[0]))
    return latents


@torch.inference_mode(False)
@torch.no_grad()
def _finished_pictures(diffusion: Diffusion, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to pictures [N,H,W,3]; MendableError if they are not numbers."""
    size = first_batch(diffusion.device, latents[0, 0].numel())
    parts = in_batches(len(latents), size, lambda part: decode(diffusion.vae, latents[part]))
    pictures = torch.cat([picture for _, picture in parts])
    if not pictures.isfinite().all():
        raise MendableError(
            f"{diffusion.name} made pictures that are not numbers in {diffusion.dtype}: load it "
            "with dtype fp32 or bf16."
        )
    return pictures
