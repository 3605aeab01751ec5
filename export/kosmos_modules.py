"""Kosmos-2 as two modules: one that looks, and one that reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration


class ImageEncoder(nn.Module):
    """Vision tower and connector: pixel values [B,3,S,S] to a picture's slots [B,Q,D]."""

    def __init__(self, model: Kosmos2ForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.vision_model
        self.connector = model.image_to_text_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        patches = self.tower(pixel_values=pixel_values).last_hidden_state
        patches = normalize(self.tower.model.post_layernorm(patches), dim=-1)
        slots: Tensor = self.connector(patches)[0]
        return slots


class Decoder(nn.Module):
    """The decoder with its memory, for a prompt of any length and for single tokens alike.

    Inputs, in transformers' names and meanings:
        input_ids, position_ids, image_embeds_position_mask: int64 [B,T]. Positions count from the
            padding token's number + 1; padding in front may have any position.
        attention_mask: int64 [B,P+T], 0 for what must not be seen.
        image_embeds: float32 [B,Q,D]. Where image_embeds_position_mask is 1, the slots take the
            place of words, in order; where it is 0 everywhere, one row of anything will do.
        past: for each layer a key and a value, float32 [B,heads,P,head width]; P may be 0, or all
            may be missing.

    Returns the logits of the next token, float32 [B,1,V], and for each layer a key and a value of
    the T tokens that were read: they belong behind `past`.
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
        words = self.decoder.model
        order = (image_embeds_position_mask.cumsum(1) - 1) * image_embeds_position_mask
        slots = image_embeds.gather(1, order[..., None].expand(-1, -1, image_embeds.shape[-1]))
        is_slot = image_embeds_position_mask[..., None] == 1
        states = torch.where(is_slot, slots, words.embed_tokens(input_ids)) * words.embed_scale
        states = states + words.embed_positions.weights[position_ids]

        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        own = places[-input_ids.shape[1] :]
        visible = torch.logical_and(places[None] <= own[:, None], attention_mask[:, None] == 1)
        mask = torch.where(visible, 0.0, torch.finfo(states.dtype).min)
        memory = _Memory(past)
        for layer in words.layers:
            states = layer(states, mask[:, None], past_key_values=memory)
        logits = self.decoder.lm_head(words.layer_norm(states[:, -1:]))
        return logits, *memory.new


class _Memory:
    """What the decoder's layers ask of transformers' cache, and nothing besides."""

    def __init__(self, past: tuple[Tensor, ...]) -> None:
        self.past = past
        self.new: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Remember a layer's new keys and values; return them behind the ones before."""
        self.new += [keys, values]
        if not self.past:
            return keys, values
        before = self.past[2 * layer : 2 * layer + 2]
        return torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
