"""Pictures seen by the frozen VAE once: their latents, cached in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from ..errors import MendableError
from .checkpoint import write_tensors

AT_ONCE = 4


@dataclass(frozen=True)
class Latents:
    """The VAE's posteriors of N pictures: `mean` and `std`, float32 [N,C,h,w].

    Both are multiplied by the VAE's scaling factor, so mean + std * noise is what a UNet sees.
    """

    mean: torch.Tensor
    std: torch.Tensor


def square(picture: np.ndarray, side: int) -> torch.Tensor:
    """Crop the middle of a uint8 picture [H,W,3] to [3,side,side], float32 in -1..1."""
    pixels = _middle(picture, side, Image.Resampling.LANCZOS)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def _middle(picture: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    image = Image.fromarray(picture)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    return np.array(image.resize((side, side), how, box=(left, top, left + edge, top + edge)))


def mask_cells(masks: Sequence[np.ndarray], side: int, cells: Sequence[int]) -> torch.Tensor:
    """Return the share of the subject in each latent cell, [N,1,*cells], 0..1.

    `masks` are uint8 [H,W] of the pictures' sizes, cropped as they are. Raises MendableError when
    there is none, or one that leaves nothing of its picture.
    """
    if not masks:
        raise MendableError(
            "background_weight is below 1 but the subject has no masks: connect a grounding to "
            "SubjectDataset, or set it to 1."
        )
    squares = [_middle(mask, side, Image.Resampling.BOX) for mask in masks]
    shares = torch.from_numpy(np.stack(squares)).float().unsqueeze(1) / 255
    shares = functional.adaptive_avg_pool2d(shares, (cells[0], cells[1]))
    for k, share in enumerate(shares, start=1):
        if not share.any():
            raise MendableError(
                f"The mask of picture {k} is empty in the middle square that is learned from: crop "
                "that picture around the subject, or set background_weight to 1."
            )
    return shares


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Sequence[np.ndarray], side: int) -> Latents:
    """Encode pictures of any sizes as squares of `side` pixels, on the device the VAE is on."""
    means, stds = [], []
    for start in range(0, len(pictures), AT_ONCE):
        batch = torch.stack([square(p, side) for p in pictures[start : start + AT_ONCE]])
        posterior = vae.encode(batch.to(vae.device, vae.dtype)).latent_dist
        means.append(posterior.mean.float().cpu())
        stds.append(posterior.std.float().cpu())
    scale = vae.config.scaling_factor
    return Latents(torch.cat(means) * scale, torch.cat(stds) * scale)


def encode_once(
    cache: Path, vae: AutoencoderKL, groups: dict[str, Sequence[np.ndarray]], side: int
) -> dict[str, Latents]:
    """Encode groups of pictures, or read what the same run encoded before. Empty groups drop out.

    The cache belongs to one run folder, whose pictures never change.
    """
    groups = {name: pictures for name, pictures in groups.items() if pictures}
    if not cache.exists():
        encoded = {name: encode(vae, pictures, side) for name, pictures in groups.items()}
        tensors = {f"{name}.mean": latents.mean for name, latents in encoded.items()}
        tensors |= {f"{name}.std": latents.std for name, latents in encoded.items()}
        write_tensors(cache, tensors)
    held = load_file(cache)
    return {name: Latents(held[f"{name}.mean"], held[f"{name}.std"]) for name in groups}
