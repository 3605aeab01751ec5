"""Encode images by the vision tower and the connector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..kosmos_model import Kosmos, SupportsImageEncoding


@torch.no_grad()
def encode_images(kosmos: Kosmos, pixels: Tensor) -> Tensor:
    """Return the image features [B,Q,D] that take the decoder's image slots.

    `pixels` is [B,3,S,S] from `preprocess`. Patch features are layer-normalized and scaled to unit
    length before the connector, as in `Kosmos2ForConditionalGeneration.forward`.
    """
    model = kosmos.model
    if isinstance(model, SupportsImageEncoding):
        return model.encode_pixels(pixels)
    patches = model.vision_model(pixel_values=pixels).last_hidden_state
    patches = normalize(model.vision_model.model.post_layernorm(patches), dim=-1)
    features, _ = model.image_to_text_projection(patches)
    return features
