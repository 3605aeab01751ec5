"""The patch features of the vision tower and the image embeddings of the connector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...shared.batching import DEFAULT_BATCHES, in_batches
from ...shared.images import check_images
from ..generate.batch_size import choose_batch_size
from ..kosmos_model import Kosmos
from ..preprocess import preprocess
from .embedding import Embedding, l2_normalize


@torch.no_grad()
def patch_features(kosmos: Kosmos, pixels: Tensor) -> Tensor:
    """Return the vision features that the connector reads, [B,1+G*G,C]: class token, then patches.

    `pixels` is [B,3,S,S] from `preprocess`; patches are in row-major order. Vectors have unit
    length, as in `Kosmos2ForConditionalGeneration.forward`.
    """
    tower = kosmos.model.vision_model
    features = tower(pixel_values=pixels).last_hidden_state
    return normalize(tower.model.post_layernorm(features), dim=-1)


def grid_side(kosmos: Kosmos) -> int:
    """Return G, the number of patches along each side of the grid."""
    config = kosmos.model.config.vision_config
    return int(config.image_size // config.patch_size)


def encode_patches(kosmos: Kosmos, images: Tensor) -> Tensor:
    """Return `patch_features` of images [B,H,W,C] as in `preprocess`, computed in batches.

    Raises UserError for an empty batch.
    """
    check_images(images)
    length = kosmos.model.config.latent_query_num
    size = choose_batch_size(kosmos.model, DEFAULT_BATCHES, length)

    def work(batch: slice) -> Tensor:
        return patch_features(kosmos, preprocess(kosmos, images[batch]))

    return torch.stack(list(in_batches(len(images), size, work)))


def patch_embedding(kosmos: Kosmos, features: Tensor) -> Embedding:
    """Return the B*G*G patches of `features` [B,1+G*G,C] as an embedding."""
    side = grid_side(kosmos)
    positions = [(row, column) for row in range(side) for column in range(side)]
    labels = [
        f"picture {k + 1}, row {row}, column {column}"
        for k in range(len(features))
        for row, column in positions
    ]
    vectors = l2_normalize(features[:, 1:].flatten(0, 1))
    return Embedding(vectors, tuple(labels), f"patches of {kosmos.name}")


@torch.no_grad()
def slot_embedding(kosmos: Kosmos, features: Tensor) -> Embedding:
    """Return the B*Q image embeddings that the connector computes from `features` [B,1+G*G,C]."""
    slots = kosmos.model.image_to_text_projection(features)[0]
    labels = [
        f"picture {k + 1}, slot {slot}" for k in range(len(slots)) for slot in range(slots.shape[1])
    ]
    return Embedding(l2_normalize(slots.flatten(0, 1)), tuple(labels), f"slots of {kosmos.name}")
