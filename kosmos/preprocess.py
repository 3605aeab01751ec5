"""From ComfyUI's IMAGE to the pixels that the vision tower reads."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shared.images import Images, to_rgb
from .kosmos_model import Kosmos


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
