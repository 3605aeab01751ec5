"""Pictures, texts and patches as vectors, and how alike they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor
from torch.nn.functional import normalize

from ...shared.errors import UserError
from ...shared.images import check_images, to_pil

THUMBNAIL_SIZE = 96
"""Pixels along each side."""


@dataclass(frozen=True)
class Embedding:
    """Vectors of one space: what the EMBEDDING socket carries.

    `vectors` is float32 [N,D] on the CPU. How alike two things are is the dot product of their
    vectors. In all spaces but one vectors have unit length, so that it is a cosine, -1 to 1. In a
    likelihood space a picture's vector holds, for each text, how much likelier the picture makes
    it (nats per token, of either sign), and a text's vector is 1 at its own place, 0 elsewhere.

    `labels` are N names. Only vectors of the same `space` can be compared. `thumbnails` is uint8
    [N,96,96,3] where the vectors stand for pictures.
    """

    vectors: Tensor
    labels: tuple[str, ...]
    space: str
    thumbnails: Tensor | None = None


def l2_normalize(vectors: Tensor) -> Tensor:
    """Return [N,D] as float32 on the CPU, scaled to unit length; zero stays zero."""
    return normalize(vectors.detach().float().cpu(), dim=-1)


def similarity(rows: Embedding, columns: Embedding) -> Tensor:
    """Return how alike each of N things is to each of M others, float32 [N,M].

    Raises UserError when they are not of the same space.
    """
    if rows.space != columns.space:
        raise UserError(
            f'Embeddings of "{rows.space}" cannot be compared with those of "{columns.space}": '
            "make both with the same method, model, prompt, reference and, for likelihood, texts."
        )
    return rows.vectors @ columns.vectors.T


def rank(similarities: Tensor, top: int) -> list[list[int]]:
    """Return for each row the numbers of the `top` best columns, best first, ties in order."""
    order = similarities.sort(dim=1, descending=True, stable=True).indices
    ranks: list[list[int]] = order[:, :top].tolist()
    return ranks


def thumbnails(images: Tensor) -> Tensor:
    """Return uint8 [B,96,96,3] of pictures [B,H,W,C] as in `to_rgb`, each whole, on black."""
    check_images(images)
    small = [ImageOps.pad(to_pil(image), (THUMBNAIL_SIZE, THUMBNAIL_SIZE)) for image in images]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in small]))
