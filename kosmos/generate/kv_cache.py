"""What the decoder remembers of what it has read: the keys and values of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True)
class KVCache:
    """Keys and values of each layer, [N,heads,T,head width]: N pictures and the T tokens read."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def select(self, places: Sequence[int]) -> KVCache:
        """Return a copy of some of the pictures, each as often as `places` name it."""
        index = torch.tensor(places, device=self.layers[0][0].device)
        return KVCache(
            tuple((k.index_select(0, index), v.index_select(0, index)) for k, v in self.layers)
        )


def concatenate(memories: Sequence[KVCache]) -> KVCache:
    """Return the pictures of all."""
    if len(memories) == 1:
        return memories[0]
    layers = zip(*(memory.layers for memory in memories), strict=True)
    pairs = (tuple(zip(*layer, strict=True)) for layer in layers)
    return KVCache(tuple((torch.cat(keys), torch.cat(values)) for keys, values in pairs))


class PreallocatedCache(Cache):
    """A memory with room for tokens to come, so that no token makes all others be copied."""

    def __init__(self, memory: KVCache, room: int) -> None:
        super().__init__(layers=[_PreallocatedLayer(k, v, room) for k, v in memory.layers])

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        for layer in self.layers:
            layer.keep(rows)


class _PreallocatedLayer(DynamicLayer):
    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._length = keys.shape[-2]
        self._both = keys.new_empty(2, *keys.shape[:2], self._length + room, keys.shape[-1])
        self._both[0, :, :, : self._length] = keys
        self._both[1, :, :, : self._length] = values
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._both[0, :, :, start : self._length] = key_states
        self._both[1, :, :, start : self._length] = value_states
        self._show()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def keep(self, rows: Tensor) -> None:
        self._both = self._both.index_select(1, rows)
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self._both[:, :, :, : self._length]
