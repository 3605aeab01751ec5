"""Similarity of patches: to one another, as colours, and to a phrase.

`features` is [B,1+G*G,C] from `patch_features`: a class token, then the patches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.errors import UserError
from ..kosmos_model import Kosmos
from .likelihood import likelihood_scores_of_embeds
from .patches import grid_side


def pca_colours(features: Tensor) -> Tensor:
    """Return the first three principal components of patches as RGB, float32 [B,G,G,3] in 0..1.

    The components are those of all patches of all images, as in DINOv2 (Oquab et al. 2023,
    arXiv:2304.07193, figure 1), so equal colours mean equal features in every image. Each component
    is scaled to 0..1, with the sign that makes its largest weight positive. The result is on the
    CPU.
    """
    patches = features[:, 1:].float().cpu()
    count, number, width = patches.shape
    centred = patches.reshape(-1, width) - patches.mean((0, 1))
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.T[-3:].flip(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    components = centred @ (directions * largest.sign()).T
    low, high = components.amin(0), components.amax(0)
    side = round(number**0.5)
    scaled = (components - low) / (high - low).clamp_min(1e-12)
    return scaled.reshape(count, side, side, 3)


def patch_similarity(features: Tensor, row: int, column: int) -> Tensor:
    """Return the cosine of every patch with one patch of its image, float32 [B,G,G] on the CPU.

    Raises UserError when the patch is outside the grid.
    """
    side = round((features.shape[1] - 1) ** 0.5)
    if not (0 <= row < side and 0 <= column < side):
        raise UserError(
            f"There is no patch in row {row} and column {column}: the grid has {side} by {side}, "
            f"from 0 to {side - 1}."
        )
    chosen = row * side + column
    return torch.stack([patch_cosines(image)[chosen].view(side, side) for image in features])


def patch_cosines(features: Tensor) -> Tensor:
    """Return the cosines [G*G,G*G] of all patches of one image [1+G*G,C], on the CPU."""
    patches = normalize(features[1:].float().cpu(), dim=-1)
    return patches @ patches.T


def phrase_similarity(
    kosmos: Kosmos, features: Tensor, phrase: str, batching: BatchOptions = DEFAULT_BATCHES
) -> Tensor:
    """Return the likelihood score of a phrase for each patch alone, float32 [B,G,G] on the CPU.

    Patches and texts have no common space, so the decoder scores them: the connector reads the
    class token and one patch, and the score is that of `likelihood_scores`, in nats per token.
    Above 0 the patch raises the likelihood of "An image of <phrase>". `batching` counts patches.
    Raises UserError for an empty phrase, and for one that exceeds the context length.
    """
    count, tokens, _ = features.shape
    side = grid_side(kosmos)
    images = torch.arange(count).repeat_interleave(tokens - 1)
    patches = torch.arange(1, tokens).repeat(count)

    @torch.no_grad()
    def image_embeds(batch: slice) -> Tensor:
        pairs = torch.stack(
            [features[images[batch], 0], features[images[batch], patches[batch]]], 1
        )
        embeds: Tensor = kosmos.model.image_to_text_projection(pairs)[0]
        return embeds

    scores = likelihood_scores_of_embeds(
        kosmos, image_embeds, len(images), phrase, batching=batching
    )
    return scores.view(count, side, side)
