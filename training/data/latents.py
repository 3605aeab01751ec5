"""Pictures seen by the frozen VAE once: their latents, cached in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional

from ...diffusion.sample.unet_forward import add_time_ids
from ...shared.errors import UserError
from ...shared.images import to_batch
from ..run.checkpoints import read_tensors, write_tensors
from .buckets import Size

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
    return _pixels(picture, Size(side, side))


def _pixels(picture: np.ndarray, size: Size) -> torch.Tensor:
    pixels = _middle(picture, size, Image.Resampling.LANCZOS)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def _middle(picture: np.ndarray, size: Size, how: Image.Resampling) -> np.ndarray:
    image = Image.fromarray(picture)
    width, height = _cut(image.width, image.height, size)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return np.array(image.resize((size.width, size.height), how, box=box))


def _cut(width: int, height: int, size: Size) -> tuple[float, float]:
    """Width and height of the largest part of a picture that has a size's aspect ratio."""
    if width * size.height <= height * size.width:
        return width, width * size.height / size.width
    return height * size.width / size.height, height


def placed(picture: np.ndarray, size: Size) -> torch.Tensor:
    """Return what XL is told about a picture [H,W,3] that is trained at a size: see `add_time_ids`.

    The original is the picture as it came, the cut that of the scaled one (Podell et al. 2023,
    section 2.2, and diffusers' training scripts).
    """
    height, width = picture.shape[:2]
    scale = size.width / _cut(width, height, size)[0]
    return add_time_ids(
        size.height,
        size.width,
        original=(height, width),
        top=round((height * scale - size.height) / 2),
        left=round((width * scale - size.width) / 2),
    )


def mask_cells(masks: Sequence[np.ndarray], size: Size, cells: Sequence[int]) -> torch.Tensor:
    """Return the share of the subject in each latent cell, [N,1,*cells], 0..1.

    `masks` are uint8 [H,W] of the pictures' sizes, cropped as they are. Raises UserError for
    one that leaves nothing of its picture.
    """
    cut = [_middle(mask, size, Image.Resampling.BOX) for mask in masks]
    shares = to_batch(cut).unsqueeze(1)
    shares = functional.adaptive_avg_pool2d(shares, (cells[0], cells[1]))
    for k, share in enumerate(shares, start=1):
        if not share.any():
            raise UserError(
                f"The mask of picture {k} is empty in the middle that is learned from: crop that "
                "picture around the subject, or set background_weight to 1."
            )
    return shares


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Sequence[np.ndarray], size: Size) -> Latents:
    """Encode pictures of any sizes at one size, on the device the VAE is on."""
    means, stds = [], []
    for start in range(0, len(pictures), AT_ONCE):
        batch = torch.stack([_pixels(p, size) for p in pictures[start : start + AT_ONCE]])
        posterior = vae.encode(batch.to(vae.device, vae.dtype)).latent_dist
        means.append(posterior.mean.float().cpu())
        stds.append(posterior.std.float().cpu())
    scale = vae.config.scaling_factor
    return Latents(torch.cat(means) * scale, torch.cat(stds) * scale)


def encode_once(
    cache: Path, vae: AutoencoderKL, groups: Mapping[str, tuple[Sequence[np.ndarray], Size]]
) -> dict[str, Latents]:
    """Encode groups of pictures, each at its size, or read what the same run encoded before.

    The cache belongs to one run folder, whose pictures never change. Raises UserError when it
    is damaged.
    """
    if not cache.exists():
        tensors: dict[str, torch.Tensor] = {}
        for name, (pictures, size) in groups.items():
            latents = encode(vae, pictures, size)
            tensors |= {f"{name}.mean": latents.mean, f"{name}.std": latents.std}
        write_tensors(cache, tensors)
    held = read_tensors(cache)
    return {name: Latents(held[f"{name}.mean"], held[f"{name}.std"]) for name in groups}
