"""Lists and batches of images, and inputs that go with them image by image."""

from __future__ import annotations

from collections.abc import Sequence
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


def grounded_texts(groundings: Sequence[Grounding], count: int) -> list[GroundedText]:
    """Return the texts of a list of groundings. Raises UserError unless there are `count`."""
    texts = [text for grounding in groundings for text in grounding.captions]
    if len(texts) != count:
        raise UserError(
            f"There are {count} images but the grounding of {len(texts)}: connect the grounding "
            "that was made from the same images."
        )
    return texts
