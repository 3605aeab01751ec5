"""What the panels in web/ are given to show."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import torch
from PIL import Image

from . import host

LONGEST = 1024
"""Pixels of the longer side of a picture in a panel, at most."""


def pictures(images: torch.Tensor) -> list[dict[str, Any]]:
    """Leave pictures [B,H,W,C] as in `to_rgb` in ComfyUI's temp folder, for a panel to show.

    Return for each where it is, as `image`, and its true `width` and `height`.
    """
    from ..kosmos.preprocess import to_rgb

    folder = host.temp_folder()
    folder.mkdir(parents=True, exist_ok=True)
    height, width = images.shape[1:3]
    batch = uuid4().hex
    found = []
    for k, image in enumerate(images):
        picture = Image.fromarray(to_rgb(image[None])[0].cpu().numpy())
        picture.thumbnail((LONGEST, LONGEST))
        file = folder / f"kosmos_{batch}_{k:04}.jpg"
        picture.save(file, quality=95, subsampling=0)
        found.append({"image": host.address(file), "width": width, "height": height})
    return found
