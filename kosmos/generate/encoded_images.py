"""Images that are encoded and prefilled once for any number of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ...shared.images import Images, check_images
from ..kosmos_model import Kosmos
from ..preprocess import preprocess
from ..prompt import Prompt
from .batch_size import max_sequences_per_pass
from .image_encoder import encode_images
from .kv_cache import KVCache, concatenate


class EncodedImages:
    """A batch of images, encoded when they are first used.

    Image features are computed once and stored on the CPU. The KV cache of an image is computed
    once for the prompts of a batch; that of the last image is kept for the next batch. Raises
    UserError for an empty batch.
    """

    def __init__(self, kosmos: Kosmos, images: Images) -> None:
        check_images(images)
        self._kosmos = kosmos
        self._images = images
        self._features: dict[int, Tensor] = {}
        self._last_cache: dict[int, KVCache] = {}

    def __len__(self) -> int:
        return len(self._images)

    def prefill(
        self, indices: Sequence[int], prompt: Prompt, on_pass: Callable[[], None] | None = None
    ) -> KVCache:
        """Return the KV cache of the images at `indices`, which ascend and may repeat.

        It covers the tokens of `prompt` up to its text, which all prompts share. A large model on
        a CPU takes several forward passes; `on_pass` is called before each.
        """
        unique = list(dict.fromkeys(indices))
        caches = [self._last_cache[k] for k in unique[:1] if k in self._last_cache]
        remaining = unique[len(caches) :]
        size = max_sequences_per_pass(self._kosmos.model, prompt.text_start)
        for start in range(0, len(remaining), size):
            if on_pass is not None:
                on_pass()
            caches.append(self._prefill(remaining[start : start + size], prompt))
        cache = concatenate(caches)
        self._last_cache = {unique[-1]: cache.select([len(unique) - 1])}
        return cache.select([unique.index(k) for k in indices])

    def _encode(self, indices: Sequence[int]) -> Tensor:
        """Return the features [N,Q,D] of the images at `indices`."""
        missing = [k for k in indices if k not in self._features]
        if missing:
            pixels = preprocess(self._kosmos, [self._images[k] for k in missing])
            features = encode_images(self._kosmos, pixels).cpu()
            self._features.update(zip(missing, features, strict=True))
        return torch.stack([self._features[k] for k in indices]).to(self._kosmos.model.device)

    def _prefill(self, indices: Sequence[int], prompt: Prompt) -> KVCache:
        features = self._encode(indices)
        ids = torch.tensor(prompt.ids[: prompt.text_start], device=features.device)
        slots = torch.zeros_like(ids, dtype=torch.bool)
        slots[slice(*prompt.slots)] = True
        first = self._kosmos.model.config.text_config.pad_token_id + 1
        positions = torch.arange(first, first + len(ids), device=features.device)
        cache = DynamicCache()
        with torch.no_grad():
            self._kosmos.model.text_model.model(
                input_ids=ids.expand(len(features), -1),
                position_ids=positions.repeat(len(features), 1),
                image_embeds=features,
                image_embeds_position_mask=slots.expand(len(features), -1),
                past_key_values=cache,
                use_cache=True,
            )
        return KVCache(tuple((layer.keys, layer.values) for layer in cache.layers))
