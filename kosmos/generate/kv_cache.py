"""The decoder's KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True)
class KVCache:
    """Keys and values of each layer, [N,heads,T,head width], of N images and T tokens."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def select(self, indices: Sequence[int]) -> KVCache:
        """Return a copy of the rows at `indices`, which may repeat."""
        rows = torch.tensor(indices, device=self.layers[0][0].device)
        return KVCache(
            tuple((k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.layers)
        )


def concatenate(caches: Sequence[KVCache]) -> KVCache:
    """Return the rows of all caches."""
    if len(caches) == 1:
        return caches[0]
    layers = zip(*(cache.layers for cache in caches), strict=True)
    pairs = (tuple(zip(*layer, strict=True)) for layer in layers)
    return KVCache(tuple((torch.cat(keys), torch.cat(values)) for keys, values in pairs))


class PreallocatedCache(Cache):
    """A copy of a cache with space for more tokens, which are appended without copying."""

    def __init__(self, prefix: KVCache, max_new_tokens: int) -> None:
        super().__init__(
            layers=[_PreallocatedLayer(k, v, max_new_tokens) for k, v in prefix.layers]
        )

    def select_rows(self, rows: Tensor) -> None:
        """Drop all rows but those at the indices `rows`."""
        for layer in self.layers:
            layer.select_rows(rows)


class _PreallocatedLayer(DynamicLayer):
    def __init__(self, keys: Tensor, values: Tensor, max_new_tokens: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._length = keys.shape[-2]
        size = self._length + max_new_tokens
        self._buffer = keys.new_empty(2, *keys.shape[:2], size, keys.shape[-1])
        self._buffer[0, :, :, : self._length] = keys
        self._buffer[1, :, :, : self._length] = values
        self._update_views()

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._buffer[0, :, :, start : self._length] = key_states
        self._buffer[1, :, :, start : self._length] = value_states
        self._update_views()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def select_rows(self, rows: Tensor) -> None:
        self._buffer = self._buffer.index_select(1, rows)
        self._update_views()

    def _update_views(self) -> None:
        self.keys, self.values = self._buffer[:, :, :, : self._length]
