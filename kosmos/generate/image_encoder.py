"""What the vision tower and the connector make of a picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..kosmos_model import Kosmos, SupportsImageEncoding


@torch.no_grad()
def encode_images(kosmos: Kosmos, pixels: Tensor) -> Tensor:
    """Return the latent queries' view of a batch, [B,Q,D], all that the decoder sees of it.

    `pixels` is [B,3,S,S] from `preprocess`. Patch features are layer-normalized and scaled to unit
    length before the connector, as `Kosmos2ForConditionalGeneration.forward` does.
    """
    model = kosmos.model
    if isinstance(model, SupportsImageEncoding):
        return model.look(pixels)
    patches = model.vision_model(pixel_values=pixels).last_hidden_state
    patches = normalize(model.vision_model.model.post_layernorm(patches), dim=-1)
    features, _ = model.image_to_text_projection(patches)
    return features
