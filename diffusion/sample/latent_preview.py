"""A quick look at a picture that is still being painted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, SchedulerMixin

from .schedulers import FLOW

# A decoder up to this size is quick enough to run at every step.
SMALL_DECODER = 5_000_000
PROBES, PROBE_CELLS = 8, 12


def pred_original_sample(
    scheduler: SchedulerMixin,
    scaled: torch.Tensor,
    prediction: torch.Tensor,
    timestep: torch.Tensor,
) -> torch.Tensor:
    """The clean latents that one prediction implies (DDIM, Song et al. 2021, equation 12).

    scaled: latents as `scale_model_input` made them, of unit variance; all are [N,C,h,w].
    For v-prediction see Salimans and Ho 2022, appendix D.
    """
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return prediction
    if kind == FLOW:  # noise - picture, at a timestep that is the share of noise
        noise = float(timestep) / scheduler.config.num_train_timesteps
        return scaled - noise * prediction
    signal = alphas_cumprod_at(scheduler, timestep).clamp(min=1e-6).to(scaled.device)
    if kind == "v_prediction":
        return signal.sqrt() * scaled - (1 - signal).sqrt() * prediction
    return (scaled - (1 - signal).sqrt() * prediction) / signal.sqrt()


def alphas_cumprod_at(scheduler: SchedulerMixin, timestep: torch.Tensor) -> torch.Tensor:
    """The share of the clean latents in the variance of the noisy ones, 0..1 (alpha-bar)."""
    return scheduler.alphas_cumprod[round(float(timestep))]


def previewer(vae: AutoencoderKL) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from scaled latents [C,h,w] to a picture [H,W,3], float 0..1 on the CPU.

    A small decoder is simply run. For a large one a linear map from a latent cell to its mean
    colour is fitted to a few encoded pictures of soft blobs, and a preview has one pixel to a
    cell.
    """
    if sum(p.numel() for p in vae.decoder.parameters()) <= SMALL_DECODER:
        return lambda latents: decode(vae, latents[None])[0]
    colours = _fit_colours(vae)

    def paint_cells(latents: torch.Tensor) -> torch.Tensor:
        cells = torch.cat([latents.float(), torch.ones_like(latents[:1], dtype=torch.float32)])
        return torch.einsum("chw,cd->hwd", cells.cpu(), colours).clamp(0, 1)

    return paint_cells


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents [N,C,h,w] to pictures [N,H,W,3], float32 0..1 on the CPU."""
    unscaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    pictures = vae.decode(unscaled, return_dict=False)[0]
    return (pictures.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()


def _fit_colours(vae: AutoencoderKL) -> torch.Tensor:
    """[C+1, 3]: weights of each latent channel, and a constant, in the mean colour of its cell."""
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand((PROBES, 3, 4, 4), generator=generator)
    side = PROBE_CELLS * 2 ** (len(vae.config.block_out_channels) - 1)
    pictures = torch.nn.functional.interpolate(blobs, size=side, mode="bilinear")
    colours = torch.nn.functional.interpolate(blobs, size=PROBE_CELLS, mode="bilinear")
    encoded = vae.encode((pictures * 2 - 1).to(vae.device, vae.dtype)).latent_dist.mean
    latents = encoded.float().cpu() * vae.config.scaling_factor
    inputs = torch.cat([latents, torch.ones_like(latents[:, :1])], 1)
    return torch.linalg.lstsq(_rows(inputs), _rows(colours)).solution


def _rows(cells: torch.Tensor) -> torch.Tensor:
    """[N,C,h,w] to [N*h*w,C]."""
    return cells.permute(0, 2, 3, 1).flatten(0, 2)
