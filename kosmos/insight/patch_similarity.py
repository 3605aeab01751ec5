"""Which patches are alike, and which are like a phrase.

`features` is [B,1+G*G,C] from `patch_features`: a class token, then the patches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.errors import UserError
from ..kosmos_model import Kosmos
from .likelihood import likelihood_scores_of_features
from .patches import grid_side


def pca_colours(features: Tensor) -> Tensor:
    """Show patches by colours: alike where they are alike, float32 [B,G,G,3] in 0..1 on the CPU.

    Red, green and blue are the first three
    principal components over all patches of all pictures, as DINOv2 shows them (Oquab et al. 2023,
    arXiv:2304.07193, figure 1), so that a colour means the same in every picture. Each is stretched
    to the whole range, and turned so that its largest weight is positive.
    """
    patches = features[:, 1:].float().cpu()
    count, number, width = patches.shape
    centred = patches.reshape(-1, width) - patches.mean((0, 1))
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.T[-3:].flip(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    shown = centred @ (directions * largest.sign()).T
    low, high = shown.amin(0), shown.amax(0)
    side = round(number**0.5)
    stretched = (shown - low) / (high - low).clamp_min(1e-12)
    return stretched.reshape(count, side, side, 3)


def patch_similarity(features: Tensor, row: int, column: int) -> Tensor:
    """Return the cosine of every patch with one of the same picture, float32 [B,G,G] on the CPU.

    Raises UserError for a patch outside.
    """
    side = round((features.shape[1] - 1) ** 0.5)
    if not (0 <= row < side and 0 <= column < side):
        raise UserError(
            f"There is no patch in row {row} and column {column}: the grid has {side} by {side}, "
            f"from 0 to {side - 1}."
        )
    chosen = row * side + column
    return torch.stack([patch_cosines(one)[chosen].view(side, side) for one in features])


def patch_cosines(features: Tensor) -> Tensor:
    """Return the cosines of all patches of a picture, given as [1+G*G,C]: [G*G,G*G] on the CPU."""
    patches = normalize(features[1:].float().cpu(), dim=-1)
    return patches @ patches.T


def phrase_similarity(
    kosmos: Kosmos, features: Tensor, phrase: str, batching: BatchOptions = DEFAULT_BATCHES
) -> Tensor:
    """Return how much each patch alone speaks for a phrase, float32 [B,G,G] on the CPU.

    Patches and words share no space, so the decoder is asked: the connector gathers from the class
    token and this one patch, and the score is that of `likelihood`, in nats per token; above 0 the
    patch makes "An image of <phrase>" likelier. `batching` counts patches. Raises UserError for an
    empty phrase, and for one that the decoder has no room for.
    """
    count, keys, _ = features.shape
    number, side = keys - 1, grid_side(kosmos)
    pictures = torch.arange(count).repeat_interleave(number)
    patches = torch.arange(1, keys).repeat(count)

    @torch.no_grad()
    def view(start: int, stop: int) -> Tensor:
        own = features[pictures[start:stop], patches[start:stop]]
        seen = torch.stack([features[pictures[start:stop], 0], own], 1)
        slots: Tensor = kosmos.model.image_to_text_projection(seen)[0]
        return slots

    return likelihood_scores_of_features(
        kosmos, view, count * number, phrase, batching=batching
    ).view(count, side, side)
