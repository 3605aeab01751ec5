"""What the decoder remembers of pictures and prompts: the keys and values of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from .encode import encode
from .model import Kosmos
from .preprocess import preprocess
from .prompt import Prompt


@dataclass(frozen=True)
class Memory:
    """Keys and values of each layer, [N,heads,T,head width]: N pictures and the T tokens read."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def pick(self, places: Sequence[int]) -> Memory:
        """Return a copy of some of the pictures, each as often as `places` name it."""
        index = torch.tensor(places, device=self.layers[0][0].device)
        return Memory(
            tuple((k.index_select(0, index), v.index_select(0, index)) for k, v in self.layers)
        )

    def beside(self, other: Memory) -> Memory:
        """Return the pictures of both."""
        return Memory(
            tuple(
                (torch.cat([k, more_k]), torch.cat([v, more_v]))
                for (k, v), (more_k, more_v) in zip(self.layers, other.layers, strict=True)
            )
        )


class Pictures:
    """Pictures as the decoder remembers them, once it has read what all prompts begin with.

    `images` is [B,H,W,C] as in `preprocess`; `shared` is how many tokens all prompts have in
    common, image slots included. Each picture is encoded, and read with those tokens, once, as long
    as batches take the pictures in their order: the last one is kept for the next batch.
    """

    def __init__(self, kosmos: Kosmos, images: Tensor, prompt: Prompt, shared: int) -> None:
        self._kosmos = kosmos
        self._images = images
        self._ids = prompt.ids[:shared]
        self._slots = prompt.slots
        self._last: tuple[int, Memory] | None = None

    def remember(self, pictures: Sequence[int]) -> Memory:
        """Return the memory of pictures by their numbers, ascending, each as often as named."""
        wanted = list(dict.fromkeys(pictures))
        if self._last is None or self._last[0] != wanted[0]:
            memory = self._read(wanted)
        else:
            memory = self._last[1]
            if len(wanted) > 1:
                memory = memory.beside(self._read(wanted[1:]))
        self._last = (wanted[-1], memory.pick([len(wanted) - 1]))
        return memory.pick([wanted.index(k) for k in pictures])

    def _read(self, pictures: Sequence[int]) -> Memory:
        kosmos = self._kosmos
        features = encode(kosmos, preprocess(kosmos, self._images[pictures]))
        ids = torch.tensor(self._ids, device=features.device)
        slots = torch.zeros_like(ids, dtype=torch.bool)
        slots[self._slots[0] : self._slots[1]] = True
        first = kosmos.model.config.text_config.pad_token_id + 1
        positions = torch.arange(first, first + len(ids), device=features.device)
        positions = positions.repeat(len(features), 1)
        cache = DynamicCache()
        with torch.no_grad():
            kosmos.model.text_model.model(
                input_ids=ids.expand(len(features), -1),
                position_ids=positions,
                image_embeds=features,
                image_embeds_position_mask=slots.expand(len(features), -1),
                past_key_values=cache,
                use_cache=True,
            )
        return Memory(tuple((layer.keys, layer.values) for layer in cache.layers))


class Growing(Cache):
    """A memory with room for tokens to come, so that no token makes all others be copied."""

    def __init__(self, memory: Memory, room: int) -> None:
        super().__init__(layers=[_GrowingLayer(k, v, room) for k, v in memory.layers])

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        for layer in self.layers:
            layer.keep(rows)


class _GrowingLayer(DynamicLayer):
    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._length = keys.shape[-2]
        self._both = keys.new_empty(2, *keys.shape[:2], self._length + room, keys.shape[-1])
        self._both[0, :, :, : self._length] = keys
        self._both[1, :, :, : self._length] = values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._both[0, :, :, start : self._length] = key_states
        self._both[1, :, :, start : self._length] = value_states
        return self._both[0, :, :, : self._length], self._both[1, :, :, : self._length]

    def get_seq_length(self) -> int:
        return self._length

    def keep(self, rows: Tensor) -> None:
        self._both = self._both.index_select(1, rows)
