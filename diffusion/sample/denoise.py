"""The denoising loop: from noise to latents with one UNet pass per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ..diffusion_model import Diffusion
from .guidance import GuidanceOptions
from .img2img_input import Img2ImgInput
from .inpainting_condition import inpainting_condition
from .latent_preview import (
    alphas_cumprod_at,
    has_small_decoder,
    make_previewer,
    pred_original_sample,
)
from .prompt_encoding import PromptEmbeds
from .sample_settings import SampleSettings
from .schedulers import FLOW_PREDICTION, SCHEDULERS, make_scheduler
from .unet_forward import add_time_ids, unet_forward

OnStep = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Conditioning:
    """Text conditioning of N images: one prompt each, and the negative prompt that all share."""

    prompts: PromptEmbeds
    negative: PromptEmbeds

    @cached_property
    def negative_and_prompts(self) -> PromptEmbeds:
        """The negative prompt N times, followed by the N prompts: a batch of 2N."""
        return PromptEmbeds.join([*[self.negative] * len(self.prompts), self.prompts])


@torch.inference_mode(False)
@torch.no_grad()
def denoise(
    diffusion: Diffusion,
    conditioning: Conditioning,
    seeds: Sequence[int],
    latent_size: tuple[int, int],
    settings: SampleSettings,
    options: GuidanceOptions,
    img2img: Img2ImgInput | None,
    on_step: OnStep | None,
) -> torch.Tensor:
    """Return scaled latents [len(seeds),C,*latent_size], float32, on the model's device.

    latent_size: height and width of the latents.
    img2img: start images for SDEdit (Meng et al. 2022); a mask is an input of an inpainting model,
        and with others applied by blending latents (Avrahami et al. 2023, "Blended Latent
        Diffusion", algorithm 1).

    Random numbers are drawn in diffusers' order: the start images' latents, the initial noise,
    then the noise of each step.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    source = None
    blends = img2img is not None and not diffusion.is_inpainting_model
    if img2img or on_step or diffusion.is_inpainting_model:
        diffusion.load("vae")
    if img2img is not None and (blends or not img2img.starts_from_noise):
        source = img2img.encode(diffusion, generators).to(diffusion.device)
    shape = (len(seeds), diffusion.vae.config.latent_channels, *latent_size)
    noise = randn_tensor(shape, generator=generators).to(diffusion.device)
    condition = inpainting_condition(diffusion, img2img, generators, latent_size)
    preview = make_previewer(diffusion.vae) if on_step else None
    diffusion.load("unet", *(("vae",) if preview and has_small_decoder(diffusion.vae) else ()))

    scheduler = make_scheduler(settings.scheduler, diffusion.scheduler_config)
    scheduler.set_timesteps(settings.steps, device=diffusion.device)
    skipped = img2img.skipped_steps(settings.steps) * scheduler.order if img2img else 0
    timesteps = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):  # DDIM and PNDM keep no step index
        # By default a scheduler searches its timesteps for the first one, and a zero-terminal-SNR
        # model with Karras sigmas has that timestep several times.
        scheduler.set_begin_index(skipped)
    if img2img is None or img2img.starts_from_noise:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(source, noise, timesteps[:1].repeat(len(noise)))

    mask = img2img.latent_mask(diffusion) if img2img and blends else None
    step_noise = {"generator": generators} if SCHEDULERS[settings.scheduler].stochastic else {}
    time_ids = add_time_ids(*(side * diffusion.vae_factor for side in latent_size))
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        if index < options.zero_init_steps:
            prediction = _zero_init_prediction(scheduler, scaled, timestep)
        else:
            scale = options.scale_at(settings.guidance, _progress(scheduler, timestep))
            prediction = _guided_prediction(
                diffusion, scaled, condition, timestep, conditioning, time_ids, scale, options
            )
        latents = scheduler.step(prediction, timestep, latents, **step_noise, return_dict=False)[0]
        if mask is not None and source is not None:
            later = timesteps[index + 1 :]
            noised = scheduler.add_noise(source, noise, later[:1]) if len(later) else source
            latents = mask * latents + (1 - mask) * noised
        if on_step and preview:
            original = pred_original_sample(scheduler, scaled, prediction, timestep)
            on_step(index + 1, len(timesteps), preview(original[0]))
    return latents


def _guided_prediction(
    diffusion: Diffusion,
    scaled: torch.Tensor,
    condition: torch.Tensor | None,
    timestep: torch.Tensor,
    conditioning: Conditioning,
    time_ids: torch.Tensor,
    scale: float,
    options: GuidanceOptions,
) -> torch.Tensor:
    """Classifier-free guidance: the prediction [N,C,h,w], float32, from one batch of 2N.

    condition: of an inpainting model, for N images. At scale 1 the negative prediction cancels out
    and is not computed.
    """
    prompt_embeds = conditioning.prompts
    latents = scaled if condition is None else torch.cat([scaled, condition], 1)
    if scale != 1:
        prompt_embeds = conditioning.negative_and_prompts
        latents = torch.cat([latents, latents])
    time_ids = time_ids.repeat(len(latents), 1)
    output = unet_forward(diffusion.unet, latents, timestep, prompt_embeds, time_ids).float()
    if scale == 1:
        return output
    negative, prompted = output.chunk(2)
    return options.combine(negative, prompted, scale)


def _progress(scheduler: SchedulerMixin, timestep: torch.Tensor) -> float:
    return 1 - min(float(timestep) / (scheduler.config.num_train_timesteps - 1), 1.0)


def _zero_init_prediction(
    scheduler: SchedulerMixin, scaled: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """The prediction that is equivalent to zero velocity for latents of unit variance.

    v = sqrt(alphas_cumprod) * noise - sqrt(1 - alphas_cumprod) * original (Salimans and Ho 2022,
    appendix D), so v = 0 means noise = sqrt(1 - alphas_cumprod) * latents and
    original = sqrt(alphas_cumprod) * latents.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type in ("v_prediction", FLOW_PREDICTION):
        return torch.zeros_like(scaled)
    alphas_cumprod = alphas_cumprod_at(scheduler, timestep).to(scaled.device)
    share = alphas_cumprod if prediction_type == "sample" else 1 - alphas_cumprod
    return scaled * share.sqrt()
