"""What the panels in web/ are given to show."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from PIL import Image

from ..shared.images import to_pil
from . import host

if TYPE_CHECKING:
    from ..kosmos.insight.embedding import Embedding

MOST_BYTES = 2**20
"""Of numbers that a node hands to its panel beside those that it was asked for, at most."""

LONGEST = 1024
"""Pixels of the longer side of a picture in a panel, at most."""

MOST_COMPARED = 100
"""Rows, and columns, of a matrix in a panel, at most."""


def pictures(images: torch.Tensor) -> list[dict[str, Any]]:
    """Leave pictures [B,H,W,C] as in `to_rgb` in ComfyUI's temp folder, for a panel to show.

    Return for each where it is, as `image`, and its true `width` and `height`.
    """

    height, width = images.shape[1:3]
    found = []
    for image in images:
        picture = to_pil(image)
        picture.thumbnail((LONGEST, LONGEST))
        found.append({"image": _address(picture), "width": width, "height": height})
    return found


def as_bytes(values: torch.Tensor) -> str:
    """Return [N,M] as base64: a byte for each number, each row from 0 (its lowest) to 255."""
    from ..drawing.heatmap import min_max_scale

    rows = torch.stack([min_max_scale(row) for row in values])
    return b64encode(rows.mul(255).byte().numpy().tobytes()).decode()


def matrix(values: torch.Tensor, rows: Embedding, columns: Embedding) -> dict[str, Any]:
    """Return similarities [N,M] and what they are of, as far as a panel has room.

    `values` holds a list for each row; `rows` and `columns` each their `names`, how many there are
    in all as `count`, and `strip`, where their thumbnails are, one below the other (None of texts).
    """
    shown = values[:MOST_COMPARED, :MOST_COMPARED]
    return {"values": shown.tolist(), "rows": _things(rows), "columns": _things(columns)}


def _things(embedding: Embedding) -> dict[str, Any]:
    thumbnails = embedding.thumbnails
    strip = None
    if thumbnails is not None:
        strip = _address(Image.fromarray(thumbnails[:MOST_COMPARED].flatten(0, 1).numpy()))
    names = list(embedding.labels[:MOST_COMPARED])
    return {"names": names, "count": len(embedding.labels), "strip": strip}


def _address(picture: Image.Image) -> dict[str, str]:
    """Leave a picture in ComfyUI's temp folder, and say where."""
    file = host.temp_folder() / f"kosmos_{uuid4().hex}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=95, subsampling=0)
    return host.address(file)
