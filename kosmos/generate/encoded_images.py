"""Pictures that are looked at once, whatever is asked of them."""

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
    """A batch of pictures as the decoder comes to know them.

    The vision tower sees each picture once, and what it made of it is kept in main memory. The
    decoder reads a picture's slots once for all prompts that come together; the last picture stays
    in its memory for the prompts that come next. Raises UserError for an empty batch.
    """

    def __init__(self, kosmos: Kosmos, images: Images) -> None:
        check_images(images)
        self._kosmos = kosmos
        self._images = images
        self._seen: dict[int, Tensor] = {}
        self._last: dict[int, KVCache] = {}

    def __len__(self) -> int:
        return len(self._images)

    def prefill(
        self, pictures: Sequence[int], prompt: Prompt, on_part: Callable[[], None] | None = None
    ) -> KVCache:
        """Return the memory of pictures by their numbers, ascending, each as often as named.

        Of the prompt only the part up to the end of the picture counts, which all prompts share.
        A large model on a CPU reads them in parts, before each of which `on_part` is called.
        """
        wanted = list(dict.fromkeys(pictures))
        memories = [self._last[k] for k in wanted[:1] if k in self._last]
        new = wanted[len(memories) :]
        size = max_sequences_per_pass(self._kosmos.model, prompt.text_at)
        for start in range(0, len(new), size):
            if on_part is not None:
                on_part()
            memories.append(self._read(new[start : start + size], prompt))
        memory = concatenate(memories)
        self._last = {wanted[-1]: memory.select([len(wanted) - 1])}
        return memory.select([wanted.index(k) for k in pictures])

    def _look(self, pictures: Sequence[int]) -> Tensor:
        """Return the latent queries' view of pictures, [N,Q,D]."""
        new = [k for k in pictures if k not in self._seen]
        if new:
            features = encode_images(
                self._kosmos, preprocess(self._kosmos, [self._images[k] for k in new])
            ).cpu()
            self._seen.update(zip(new, features, strict=True))
        return torch.stack([self._seen[k] for k in pictures]).to(self._kosmos.model.device)

    def _read(self, pictures: Sequence[int], prompt: Prompt) -> KVCache:
        features = self._look(pictures)
        ids = torch.tensor(prompt.ids[: prompt.text_at], device=features.device)
        slots = torch.zeros_like(ids, dtype=torch.bool)
        slots[prompt.slots[0] : prompt.slots[1]] = True
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
