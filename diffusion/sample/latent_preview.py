"""Decode latents, and approximate the result while sampling is still running."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, SchedulerMixin

from . import vae_tiles
from .schedulers import FLOW_PREDICTION

# A decoder with up to this many parameters is run at every step.
MAX_DECODER_PARAMETERS = 5_000_000
PROBE_IMAGES, PROBE_SIDE = 8, 12


def pred_original_sample(
    scheduler: SchedulerMixin,
    scaled: torch.Tensor,
    prediction: torch.Tensor,
    timestep: torch.Tensor,
) -> torch.Tensor:
    """The clean latents that one prediction implies (DDIM, Song et al. 2021, equation 12).

    scaled: latents of unit variance from `scale_model_input`; all tensors are [N,C,h,w].
    For v-prediction see Salimans and Ho 2022, appendix D.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "sample":
        return prediction
    if prediction_type == FLOW_PREDICTION:  # noise - original, with sigma = t / T
        sigma = float(timestep) / scheduler.config.num_train_timesteps
        return scaled - sigma * prediction
    alphas_cumprod = alphas_cumprod_at(scheduler, timestep).clamp(min=1e-6).to(scaled.device)
    if prediction_type == "v_prediction":
        return alphas_cumprod.sqrt() * scaled - (1 - alphas_cumprod).sqrt() * prediction
    return (scaled - (1 - alphas_cumprod).sqrt() * prediction) / alphas_cumprod.sqrt()


def alphas_cumprod_at(scheduler: SchedulerMixin, timestep: torch.Tensor) -> torch.Tensor:
    """The scheduler's alphas_cumprod (alpha-bar, 0..1) at a timestep."""
    return scheduler.alphas_cumprod[round(float(timestep))]


def make_previewer(vae: AutoencoderKL) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from scaled latents [C,h,w] to an image [H,W,3], float 0..1, on the CPU.

    A small decoder is run as it is. A large one is replaced by a linear map from a latent pixel to
    its mean colour, fitted to a few encoded images of smooth colours; the preview then has one
    pixel per latent pixel.
    """
    if has_small_decoder(vae):
        return lambda latents: decode_latents(vae, latents[None])[0]
    weights = _fit_latent_rgb(vae)

    def preview(latents: torch.Tensor) -> torch.Tensor:
        with_bias = torch.cat([latents.float(), torch.ones_like(latents[:1], dtype=torch.float32)])
        return torch.einsum("chw,cd->hwd", with_bias.cpu(), weights).clamp(0, 1)

    return preview


def has_small_decoder(vae: AutoencoderKL) -> bool:
    """Whether previews run the VAE's decoder at every step."""
    return sum(p.numel() for p in vae.decoder.parameters()) <= MAX_DECODER_PARAMETERS


def decode_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Decode scaled latents [N,C,h,w] to images [N,H,W,3], float32 0..1, on the CPU."""
    unscaled = (latents / vae.config.scaling_factor).to(vae.device, vae.dtype)
    images = vae_tiles.decode(vae, unscaled)
    return (images.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()


def _fit_latent_rgb(vae: AutoencoderKL) -> torch.Tensor:
    """Least squares fit [C+1,3]: weight of each latent channel, and a bias, in the mean colour."""
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand((PROBE_IMAGES, 3, 4, 4), generator=generator)
    side = PROBE_SIDE * 2 ** (len(vae.config.block_out_channels) - 1)
    images = torch.nn.functional.interpolate(blobs, size=side, mode="bilinear")
    colours = torch.nn.functional.interpolate(blobs, size=PROBE_SIDE, mode="bilinear")
    encoded = vae.encode((images * 2 - 1).to(vae.device, vae.dtype)).latent_dist.mean
    latents = encoded.float().cpu() * vae.config.scaling_factor
    inputs = torch.cat([latents, torch.ones_like(latents[:, :1])], 1)
    return torch.linalg.lstsq(_rows(inputs), _rows(colours)).solution


def _rows(grid: torch.Tensor) -> torch.Tensor:
    """[N,C,h,w] to [N*h*w,C]."""
    return grid.permute(0, 2, 3, 1).flatten(0, 2)
