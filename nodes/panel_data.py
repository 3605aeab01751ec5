"""The data that nodes send to the panels in web/."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from PIL import Image

from ..shared.atomic_files import atomic_write
from ..shared.images import to_pil
from . import host

if TYPE_CHECKING:
    from ..kosmos.insight.embedding import Embedding

OPTIONAL_BYTES = 2**20
"""Largest size of the optional data that a node sends to its panel."""

LONGEST_SIDE = 1024
"""Largest side of an image in a panel, in pixels."""

MATRIX_SIDE = 100
"""Largest number of rows and of columns of a matrix in a panel."""


def image_addresses(images: torch.Tensor) -> list[dict[str, Any]]:
    """Save images [B,H,W,C], as in `to_rgb`, in ComfyUI's temp folder for a panel.

    Returns for each its address as `image`, and its original `width` and `height`.
    """
    height, width = images.shape[1:3]
    addresses = []
    for image in images:
        thumbnail = to_pil(image)
        thumbnail.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        addresses.append({"image": _save(thumbnail), "width": width, "height": height})
    return addresses


def as_bytes(values: torch.Tensor) -> str:
    """Return [N,M] as bytes in base64, with each row scaled from its minimum, 0, to 255."""
    from ..drawing.heatmap import min_max_scale

    rows = torch.stack([min_max_scale(row) for row in values])
    return b64encode(rows.mul(255).byte().numpy().tobytes()).decode()


def matrix(values: torch.Tensor, rows: Embedding, columns: Embedding) -> dict[str, Any]:
    """Return a similarity matrix [N,M] for a panel, cut off at MATRIX_SIDE rows and columns.

    `values` is a list for each row; `rows` and `columns` have their `names`, the total number as
    `count`, and `strip`, the address of the vertical strip of thumbnails (None for texts).
    """
    visible = values[:MATRIX_SIDE, :MATRIX_SIDE]
    return {"values": visible.tolist(), "rows": _axis(rows), "columns": _axis(columns)}


def _axis(embedding: Embedding) -> dict[str, Any]:
    thumbnails = embedding.thumbnails
    strip = None
    if thumbnails is not None:
        strip = _save(Image.fromarray(thumbnails[:MATRIX_SIDE].flatten(0, 1).numpy()))
    names = list(embedding.labels[:MATRIX_SIDE])
    return {"names": names, "count": len(embedding.labels), "strip": strip}


def _save(image: Image.Image) -> dict[str, str]:
    """Save an image in ComfyUI's temp folder and return its address."""
    file = host.temp_folder() / f"kosmos_{uuid4().hex}.jpg"
    with atomic_write(file) as draft:
        image.save(draft, format="JPEG", quality=95, subsampling=0)
    return host.view_address(file)
