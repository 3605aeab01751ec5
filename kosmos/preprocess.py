"""From ComfyUI's IMAGE to the pixels that the vision tower reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..shared.errors import UserError
from .kosmos_model import Kosmos

Images = Tensor | Sequence[Tensor]
"""Float 0..1 with 1, 3 or 4 channels: a batch [B,H,W,C], or pictures [H,W,C] of any sizes."""


def check(images: Images) -> None:
    """Raise UserError unless there is a picture, and each has pixels and 1, 3 or 4 channels."""
    if not isinstance(images, Tensor):
        for image in images:
            check(image[None])
        images = torch.empty(len(images), 1, 1, 3)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise UserError(
            f"The image input has the shape {list(images.shape)}: connect an IMAGE of 1, 3 or 4 "
            "channels, [pictures, height, width, channels]."
        )
    if 0 in images.shape:
        raise UserError(
            "The image input is an empty batch: connect a node that gives at least one picture."
        )


def to_rgb(images: Tensor) -> Tensor:
    """Return a batch as uint8 [B,H,W,3].

    `images` is float [B,H,W,C] in 0..1, where C is 1 (grey), 3 (RGB) or 4 (RGBA, laid on white).
    Values outside the range are cut off, and what is no number becomes 0.
    """
    images = images.detach().float()
    if images.shape[-1] == 4:
        alpha = images[..., 3:].clamp(0, 1)
        images = images[..., :3] * alpha + (1 - alpha)
    images = images.mul(255).nan_to_num_(0.0).clamp_(0, 255).round_().to(torch.uint8)
    return images.expand(*images.shape[:3], 3)


def preprocess(kosmos: Kosmos, images: Images) -> Tensor:
    """Return the pixel values [B,3,S,S] of a batch, in the model's dtype and on its device.

    The model's own image processor does the work, with the whole
    picture squeezed into the square S x S of the vision tower: boxes then refer to all of it, and
    Kosmos-2 was trained that way.
    """
    side = kosmos.model.config.vision_config.image_size
    squares = [  # one at a time: a batch of large pictures would take gigabytes on the way
        kosmos.processor.image_processor(
            to_rgb(image[None])[0].movedim(-1, 0),
            size={"height": side, "width": side},
            do_center_crop=False,
            input_data_format="channels_first",
            return_tensors="pt",
        )["pixel_values"]
        for image in images
    ]
    return torch.cat(squares).to(kosmos.model.device, kosmos.model.dtype)
