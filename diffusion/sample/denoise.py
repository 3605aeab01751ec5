"""From noise to latents: one pass of the UNet at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import SchedulerMixin

from ..diffusion_model import Diffusion
from .guidance import GuidanceOptions
from .img2img_input import Img2ImgInput
from .latent_preview import alphas_cumprod_at, pred_original_sample, previewer
from .prompt_encoding import PromptEmbeds
from .sample_settings import SampleSettings
from .schedulers import FLOW, SCHEDULERS, make_scheduler
from .unet_forward import add_time_ids, unet_forward

OnStep = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about N pictures: their prompts, and the negative one of them all."""

    prompts: PromptEmbeds
    negative: PromptEmbeds

    @cached_property
    def both(self) -> PromptEmbeds:
        """The negative prompt for each of the pictures, then their prompts: 2N."""
        return PromptEmbeds.join([*[self.negative] * len(self.prompts), self.prompts])


@torch.inference_mode(False)
@torch.no_grad()
def denoise(
    diffusion: Diffusion,
    told: Conditioning,
    seeds: Sequence[int],
    cells: tuple[int, int],
    settings: SampleSettings,
    options: GuidanceOptions,
    canvas: Img2ImgInput | None,
    on_step: OnStep | None,
) -> torch.Tensor:
    """Latents [len(seeds),C,*cells], scaled, float32, on the model's device.

    A canvas is painted over as in SDEdit (Meng et al. 2022), its mask kept by blending latents
    (Avrahami et al. 2023, "Blended Latent Diffusion", algorithm 1), with diffusers' own order of
    random draws: the pictures' latents first, then the noise, then each step's.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    kept = canvas.encode(diffusion, generators) if canvas else None
    shape = (1, diffusion.unet.config.in_channels, *cells)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    noise = noise.to(diffusion.device)

    scheduler = make_scheduler(settings.scheduler, diffusion.scheduler_config)
    scheduler.set_timesteps(settings.steps, device=diffusion.device)
    skipped = canvas.first_step(settings.steps) * scheduler.order if canvas else 0
    timesteps = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):  # DDIM and PNDM count nothing
        # Told nothing, a scheduler looks for its first timestep, and with Karras' noise levels a
        # zero-terminal-SNR model has that several times.
        scheduler.set_begin_index(skipped)
    if canvas is None or canvas.begins_with_noise:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(kept, noise, timesteps[:1].repeat(len(noise)))

    mask = canvas.cells(diffusion) if canvas else None
    fresh = {"generator": generators} if SCHEDULERS[settings.scheduler].noisy else {}
    whole = add_time_ids(*(side * diffusion.vae_factor for side in cells))
    look = previewer(diffusion.vae) if on_step else None
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        if index < options.zero_init_steps:
            prediction = _zero_init_prediction(scheduler, scaled, timestep)
        else:
            scale = options.scale_at(settings.guidance, _progress(scheduler, timestep))
            prediction = _guided(diffusion, scaled, timestep, told, whole, scale, options)
        latents = scheduler.step(prediction, timestep, latents, **fresh, return_dict=False)[0]
        if mask is not None and kept is not None:
            latents = mask * latents + (1 - mask) * _add_noise(
                scheduler, kept, noise, timesteps[index + 1 :]
            )
        if on_step and look:
            original = pred_original_sample(scheduler, scaled, prediction, timestep)
            on_step(index + 1, len(timesteps), look(original[0]))
    return latents


def _guided(
    diffusion: Diffusion,
    scaled: torch.Tensor,
    timestep: torch.Tensor,
    told: Conditioning,
    whole: torch.Tensor,
    scale: float,
    options: GuidanceOptions,
) -> torch.Tensor:
    """The guided prediction [N,C,h,w], float32, both halves in one batch of 2N.

    At scale 1 the negative half would cancel out, and is not computed.
    """
    text, latents = told.prompts, scaled
    if scale != 1:
        text = told.both
        latents = torch.cat([scaled, scaled])
    frames = whole.repeat(len(latents), 1)
    output = unet_forward(diffusion.unet, latents, timestep, text, frames).float()
    if scale == 1:
        return output
    negative, prompted = output.chunk(2)
    return options.combine(negative, prompted, scale)


def _progress(scheduler: SchedulerMixin, timestep: torch.Tensor) -> float:
    return 1 - min(float(timestep) / (scheduler.config.num_train_timesteps - 1), 1.0)


def _zero_init_prediction(
    scheduler: SchedulerMixin, scaled: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """The prediction that says of latents of unit variance: no velocity (v = 0).

    With v = signal * noise - spread * picture (Salimans and Ho 2022, appendix D), that is
    spread * latents as noise and signal * latents as picture.
    """
    kind = scheduler.config.prediction_type
    if kind in ("v_prediction", FLOW):
        return torch.zeros_like(scaled)
    signal = alphas_cumprod_at(scheduler, timestep).to(scaled.device)
    return scaled * (signal if kind == "sample" else 1 - signal).sqrt()


def _add_noise(
    scheduler: SchedulerMixin, kept: torch.Tensor, noise: torch.Tensor, left: torch.Tensor
) -> torch.Tensor:
    """What is kept, with the noise of the next of the timesteps that are left."""
    return scheduler.add_noise(kept, noise, left[:1]) if len(left) else kept
