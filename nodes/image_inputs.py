"""Lists and batches of images, and inputs that go with them image by image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import torch

from ..shared.errors import UserError

if TYPE_CHECKING:
    from ..kosmos.grounding import GroundedText, Grounding

T = TypeVar("T")


def split_images(batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the images [H,W,C] of a list of batches [B,H,W,C]."""
    return [image for batch in batches for image in batch]


def split_masks(batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the masks [H,W] of a list of masks [H,W] and batches [B,H,W]."""
    return [mask for batch in batches for mask in batch.reshape(-1, *batch.shape[-2:])]


def image_sizes(images: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """Return width and height of each image [H,W,C]."""
    return [(image.shape[1], image.shape[0]) for image in images]


def split_as(values: Sequence[T], batches: Sequence[torch.Tensor]) -> list[list[T]]:
    """Return the values of `split_images(batches)`, one of each image, as a list per batch."""
    rest = iter(values)
    return [list(islice(rest, len(batch))) for batch in batches]


def grounded_texts(groundings: Sequence[Grounding], count: int) -> list[GroundedText]:
    """Return the texts of a list of groundings. Raises UserError unless there are `count`."""
    texts = [text for grounding in groundings for text in grounding.captions]
    if len(texts) != count:
        raise UserError(
            f"There are {count} images but the grounding of {len(texts)}: connect the grounding "
            "that was made from the same images."
        )
    return texts
