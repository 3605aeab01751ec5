"""Embeddings of images, texts and patches, and their similarity."""

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

    `vectors` is float32 [N,D] on the CPU; the similarity of two is their dot product. In all spaces
    but one the vectors have unit length, so it is the cosine, -1..1. In a likelihood space the
    vector of an image holds its likelihood score for each text (nats per token), and the vector of
    a text is one-hot.

    `labels` are N names. Only vectors of the same `space` can be compared. `thumbnails` is uint8
    [N,96,96,3] for vectors of images.
    """

    vectors: Tensor
    labels: tuple[str, ...]
    space: str
    thumbnails: Tensor | None = None


def l2_normalize(vectors: Tensor) -> Tensor:
    """Return vectors [N,D] scaled to unit length, as float32 on the CPU; zero stays zero."""
    return normalize(vectors.detach().float().cpu(), dim=-1)


def similarity(rows: Embedding, columns: Embedding) -> Tensor:
    """Return the similarity of N vectors with M others, float32 [N,M].

    Raises UserError when they are of different spaces.
    """
    if rows.space != columns.space:
        raise UserError(
            f'Embeddings of "{rows.space}" cannot be compared with those of "{columns.space}": '
            "make both with the same method, model, prompt, reference and, for likelihood, texts."
        )
    return rows.vectors @ columns.vectors.T


def rank(similarities: Tensor, top: int) -> list[list[int]]:
    """Return the indices of the `top` most similar columns of each row, ties in order."""
    order = similarities.sort(dim=1, descending=True, stable=True).indices
    ranks: list[list[int]] = order[:, :top].tolist()
    return ranks


def thumbnails(images: Tensor) -> Tensor:
    """Return images [B,H,W,C] as in `to_rgb` fitted into uint8 [B,96,96,3], padded with black."""
    check_images(images)
    small = [ImageOps.pad(to_pil(image), (THUMBNAIL_SIZE, THUMBNAIL_SIZE)) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in small]))
