"""Preprocess images for the vision tower."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shared.images import Images, to_rgb
from .kosmos_model import Kosmos


def preprocess(kosmos: Kosmos, images: Images) -> Tensor:
    """Return the pixel values [B,3,S,S] of a batch, in the model's dtype and on its device.

    Uses the model's image processor, without its centre crop: the whole image is resized to S x S,
    as in the training of Kosmos-2, so that boxes refer to all of it.
    """
    side = kosmos.model.config.vision_config.image_size
    squares = [  # one at a time, as a batch of large images would take gigabytes
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
