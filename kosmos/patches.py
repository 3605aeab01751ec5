"""A picture as the grid of patches that the vision tower makes of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .model import Kosmos


@torch.no_grad()
def patch_features(kosmos: Kosmos, pixels: Tensor) -> Tensor:
    """Return what the connector reads of pictures, [B,1+G*G,C]: a class token, then the patches.

    `pixels` is [B,3,S,S] from `preprocess`; patches go row by row from the upper left. Vectors have
    unit length, as in `Kosmos2ForConditionalGeneration.forward`.
    """
    tower = kosmos.model.vision_model
    features = tower(pixel_values=pixels).last_hidden_state
    return normalize(tower.model.post_layernorm(features), dim=-1)
