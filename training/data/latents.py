"""Images, cropped and scaled, as latents of the frozen VAE, cached in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from ...diffusion.sample import vae_tiles
from ...diffusion.sample.unet_forward import add_time_ids
from ...shared.batching import in_batches
from ...shared.errors import UserError
from ...shared.images import to_batch
from ..run.checkpoints import read_tensors, write_tensors
from .buckets import Size

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

ENCODE_BATCH = 4


@dataclass(frozen=True)
class Latents:
    """The VAE's posterior of N images: `mean` and `std`, float32 [N,C,h,w].

    Both are multiplied by the VAE's scaling factor, so mean + std * noise is a UNet input.
    """

    mean: torch.Tensor
    std: torch.Tensor


def center_squares(images: Sequence[np.ndarray], side: int) -> torch.Tensor:
    """Crop uint8 images [H,W,3] to their central squares, float32 [N,side,side,3] in 0..1."""
    return center_crops(images, Size(side, side))


def center_crops(images: Sequence[np.ndarray], size: Size) -> torch.Tensor:
    """Crop and scale uint8 images [H,W,3] to a size, float32 [N,h,w,3] in 0..1."""
    pixels = torch.stack([_pixels(image, size) for image in images])
    return (pixels.movedim(1, -1) + 1) / 2


def _pixels(image: np.ndarray, size: Size) -> torch.Tensor:
    """Center-crop and scale a uint8 image [H,W,3] to the VAE's input, [3,h,w] in -1..1."""
    pixels = _center_crop(image, size, Image.Resampling.LANCZOS)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def _center_crop(pixels: np.ndarray, size: Size, resampling: Image.Resampling) -> np.ndarray:
    image = Image.fromarray(pixels)
    width, height = _crop_size(image.width, image.height, size)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return np.array(image.resize((size.width, size.height), resampling, box=box))


def _crop_size(width: int, height: int, size: Size) -> tuple[float, float]:
    """Width and height of the largest crop that has the aspect ratio of `size`."""
    if width * size.height <= height * size.width:
        return width, width * size.height / size.width
    return height * size.width / size.height, height


def time_ids_for(image: np.ndarray, size: Size) -> torch.Tensor:
    """Return XL's `add_time_ids` [6] of an image [H,W,3] that is center-cropped to `size`.

    The original size is that of the image, the crop offset that in the scaled image (Podell et al.
    2023, section 2.2, and diffusers' training scripts).
    """
    height, width = image.shape[:2]
    scale = size.width / _crop_size(width, height, size)[0]
    return add_time_ids(
        size.height,
        size.width,
        original=(height, width),
        top=round((height * scale - size.height) / 2),
        left=round((width * scale - size.width) / 2),
    )


def latent_masks(masks: Sequence[np.ndarray], size: Size, shape: Sequence[int]) -> torch.Tensor:
    """Scale masks to latents of a shape (h, w): the subject's share of each cell, [N,1,h,w], 0..1.

    `masks` are uint8 [H,W] of the images' sizes and are center-cropped like them. Raises UserError
    for a mask that is empty inside the crop.
    """
    cropped = [_center_crop(mask, size, Image.Resampling.BOX) for mask in masks]
    shares = to_batch(cropped).unsqueeze(1)
    shares = functional.adaptive_avg_pool2d(shares, (shape[0], shape[1]))
    for number, share in enumerate(shares, start=1):
        if not share.any():
            raise UserError(
                f"The mask of image {number} is empty in the center crop that is trained on: crop "
                "that image around the subject, or set background_weight to 1."
            )
    return shares


@torch.no_grad()
def encode_with_diffusers(vae: AutoencoderKL, images: Sequence[np.ndarray], size: Size) -> Latents:
    """Encode uint8 images [H,W,3], center-cropped to `size`, on the VAE's device."""

    def encode(part: slice) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pixels = torch.stack([_pixels(image, size) for image in images[part]])
        posterior = vae_tiles.encode(vae, pixels.to(vae.device, vae.dtype))
        return zip(posterior.mean.float().cpu(), posterior.std.float().cpu(), strict=True)

    encoded = in_batches(len(images), ENCODE_BATCH, encode)
    means, stds = map(torch.stack, zip(*encoded, strict=True))
    scale = vae.config.scaling_factor
    return Latents(means * scale, stds * scale)


def _has_latents(tensors: Mapping[str, torch.Tensor], name: str, count: int) -> bool:
    mean, std = tensors.get(f"{name}.mean"), tensors.get(f"{name}.std")
    if mean is None or std is None or mean.shape != std.shape:
        return False
    return mean.ndim > 3 and len(mean) == count


def cached_latents(
    cache: Path,
    encode: Callable[[Sequence[np.ndarray], Size], Latents],
    groups: Mapping[str, tuple[Sequence[np.ndarray], Size]],
) -> dict[str, Latents]:
    """Return the latents of named groups of images, each at its size; encode them on first use.

    `cache` is a safetensors file of one run folder, whose images never change. Raises UserError
    when it is damaged.
    """
    tensors = read_tensors(cache) if cache.exists() else {}
    if not all(_has_latents(tensors, name, len(images)) for name, (images, _) in groups.items()):
        encoded: dict[str, torch.Tensor] = {}
        for name, (images, size) in groups.items():
            latents = encode(images, size)
            encoded |= {f"{name}.mean": latents.mean, f"{name}.std": latents.std}
        write_tensors(cache, encoded)
        tensors = encoded
    return {name: Latents(tensors[f"{name}.mean"], tensors[f"{name}.std"]) for name in groups}
