"""Convert images between ComfyUI's float tensors, uint8 arrays and Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import UserError

T = TypeVar("T")

READ_ERRORS = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a file that is no image, a damaged or a far too large one."""

Images = Tensor | Sequence[Tensor]
"""Float 0..1 with 1, 3 or 4 channels: a batch [B,H,W,C], or images [H,W,C] of any sizes."""


def check_images(images: Images, name: str = "image") -> None:
    """Raise UserError unless there is an image, and each has pixels and 1, 3 or 4 channels.

    `name` is that of the input, for the message.
    """
    if not isinstance(images, Tensor):
        for image in images:
            check_images(image[None], name)
        images = torch.empty(len(images), 1, 1, 3)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise UserError(
            f"The {name} input has the shape {list(images.shape)}: connect an IMAGE of 1, 3 or 4 "
            "channels, [images, height, width, channels]."
        )
    if 0 in images.shape:
        raise UserError(
            f"The {name} input is an empty batch or has no pixels: connect a node that gives at "
            "least one image."
        )


def one_per_image(values: Sequence[T], count: int, name: str) -> list[T]:
    """Return one value for each of `count` images; a single value is repeated.

    Raises UserError, with the input's name, when there are neither `count` values nor one.
    """
    if len(values) not in (1, count):
        raise UserError(
            f"There are {count} images but {len(values)} entries in the {name} input: give one "
            "for each image, or one for all."
        )
    return list(values) if len(values) == count else list(values) * count


def to_uint8(values: Tensor) -> Tensor:
    """Return float values in 0..1 as uint8, rounded; clamps them, and NaN becomes 0."""
    scaled = values.detach().float().mul(255)
    return scaled.nan_to_num_(0.0).clamp_(0, 255).round_().to(torch.uint8)


def to_rgb(images: Tensor) -> Tensor:
    """Return a batch as uint8 [B,H,W,3].

    `images` is float [B,H,W,C] in 0..1, where C is 1 (grey), 3 (RGB) or 4 (RGBA, composited on
    white). Values are converted as by `to_uint8`.
    """
    if images.shape[-1] == 4:
        images = images.detach().float()
        alpha = images[..., 3:].clamp(0, 1)
        images = images[..., :3] * alpha + (1 - alpha)
    return to_uint8(images).expand(*images.shape[:3], 3)


def to_pil(image: Tensor) -> Image.Image:
    """Return an image, float [H,W,C] as in `to_rgb`, as an RGB image of Pillow."""
    return Image.fromarray(to_rgb(image[None])[0].cpu().numpy())


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Return a uint8 image or array as float32 0..1 of the same shape."""
    return torch.from_numpy(np.array(image)).float() / 255


def to_batch(images: Iterable[Image.Image | np.ndarray]) -> Tensor:
    """Return uint8 images of one size as a batch, float32 [B,H,W,C] in 0..1."""
    return to_tensor(np.stack([np.asarray(image) for image in images]))


def read_rgb(file: Path) -> np.ndarray:
    """Return an image file as uint8 [H,W,3]; raises what Pillow raises."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
