"""Kosmos-2 as two modules for export: image encoder and decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration


class ImageEncoder(nn.Module):
    """Vision tower and connector: pixel values [B,3,S,S] to image embeddings [B,Q,D]."""

    def __init__(self, model: Kosmos2ForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.vision_model
        self.connector = model.image_to_text_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        patches = self.tower(pixel_values=pixel_values).last_hidden_state
        patches = normalize(self.tower.model.post_layernorm(patches), dim=-1)
        image_embeds: Tensor = self.connector(patches)[0]
        return image_embeds


class Decoder(nn.Module):
    """The decoder with a KV cache, for prefill and for decoding of single tokens.

    Inputs, with the names and meanings of transformers:
        input_ids, position_ids, image_embeds_position_mask: int64 [B,T]. Positions start at the
            padding token's id + 1; left padding may have any position.
        attention_mask: int64 [B,P+T], 0 for masked positions.
        image_embeds: float32 [B,Q,D]. They replace the token embeddings, in order, where
            image_embeds_position_mask is 1. Where it is 0 everywhere, any [B,1,D] will do.
        past: the key and the value of each layer, float32 [B,heads,P,head_dim]; P may be 0, or all
            may be omitted.

    Returns the logits of the next token, float32 [B,1,V], and the key and the value of each layer
    for the T new tokens, to be appended to `past`.
    """

    def __init__(self, model: Kosmos2ForConditionalGeneration) -> None:
        super().__init__()
        self.decoder = model.text_model

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        image_embeds: Tensor,
        image_embeds_position_mask: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """See the class."""
        model = self.decoder.model
        order = (image_embeds_position_mask.cumsum(1) - 1) * image_embeds_position_mask
        slots = image_embeds.gather(1, order[..., None].expand(-1, -1, image_embeds.shape[-1]))
        is_slot = image_embeds_position_mask[..., None] == 1
        states = torch.where(is_slot, slots, model.embed_tokens(input_ids)) * model.embed_scale
        states = states + model.embed_positions.weights[position_ids]

        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        queries = positions[-input_ids.shape[1] :]
        visible = torch.logical_and(
            positions[None] <= queries[:, None], attention_mask[:, None] == 1
        )
        mask = torch.where(visible, 0.0, torch.finfo(states.dtype).min)
        cache = _Cache(past)
        for layer in model.layers:
            states = layer(states, mask[:, None], past_key_values=cache)
        logits = self.decoder.lm_head(model.layer_norm(states[:, -1:]))
        return logits, *cache.new


class _Cache:
    """The part of transformers' cache interface that the decoder layers use."""

    def __init__(self, past: tuple[Tensor, ...]) -> None:
        self.past = past
        self.new: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return them appended to the past ones."""
        self.new += [keys, values]
        if not self.past:
            return keys, values
        past_keys, past_values = self.past[2 * layer : 2 * layer + 2]
        return torch.cat([past_keys, keys], 2), torch.cat([past_values, values], 2)
