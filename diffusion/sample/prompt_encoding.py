"""Tokenize prompts and encode them with the model's text encoders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from weakref import WeakKeyDictionary

import torch

from ...shared.errors import UserError
from ..diffusion_model import Diffusion

CACHE_SIZE = 64

Tokens = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PromptEmbeds:
    """Text encoder outputs for N prompts.

    states: [N,tokens,width], the last hidden states of the only encoder; in XL the penultimate
        ones of both encoders, concatenated (Podell et al. 2023, section 2.1).
    pooled: [N,width], the pooled projection of XL's second encoder; else None.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, part: slice) -> PromptEmbeds:
        return PromptEmbeds(self.states[part], None if self.pooled is None else self.pooled[part])

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> PromptEmbeds:
        """The same embeddings on a device, and in a dtype if one is given."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return PromptEmbeds(self.states.to(device, dtype), pooled)

    @staticmethod
    def join(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """Concatenate along the batch dimension."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        states = torch.cat([part.states for part in parts])
        return PromptEmbeds(states, torch.cat(pooled) if pooled else None)


@dataclass
class _PromptCache:
    """Embeddings by token ids, valid while the encoders' weights have this version."""

    weights_version: int
    embeds: OrderedDict[Tokens, PromptEmbeds] = field(default_factory=OrderedDict)


_caches: WeakKeyDictionary[torch.nn.Module, _PromptCache] = WeakKeyDictionary()


@torch.inference_mode(False)
@torch.no_grad()
def encode_prompts(diffusion: Diffusion, prompts: Iterable[str]) -> dict[str, PromptEmbeds]:
    """Encode each distinct prompt once; the last prompts of frozen encoders are cached.

    Returns prompt -> PromptEmbeds of one prompt, on the text encoder's device and in its dtype.
    Raises UserError for a prompt that is longer than the encoder's context.
    """
    distinct = list(dict.fromkeys(prompts))
    for prompt in distinct:
        _require_prompt_length(diffusion, prompt)
    tokens: list[Tokens] = [
        tuple(map(tuple, ids.tolist())) for ids in tokenize(diffusion, distinct)
    ]
    encoder = diffusion.text_encoder
    cache = _prompt_cache(diffusion)
    new = list(dict.fromkeys(row for row in tokens if row not in cache))
    if new:
        encoded = encode_tokens(diffusion, torch.tensor(new, device=encoder.device))
        cache.update((row, encoded[k : k + 1]) for k, row in enumerate(new))
    for row in tokens:
        cache.move_to_end(row)
    embeds = {
        prompt: cache[row].to(encoder.device, encoder.dtype)
        for prompt, row in zip(distinct, tokens, strict=True)
    }
    while len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
    return embeds


def tokenize(diffusion: Diffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Return token ids [N,E,tokens] of N prompts for the model's E text encoders, padded."""
    rows = []
    for tokenizer in (diffusion.tokenizer, diffusion.tokenizer_2):
        if tokenizer is not None:
            length = tokenizer.model_max_length
            encoding = tokenizer(list(prompts), padding="max_length", max_length=length)
            rows.append(torch.tensor(encoding.input_ids))
    return torch.stack(rows, 1)


def encode_tokens(diffusion: Diffusion, ids: torch.Tensor) -> PromptEmbeds:
    """Encode token ids [N,E,tokens]; gradients reach the encoders' weights."""
    if diffusion.text_encoder_2 is None:
        return PromptEmbeds(diffusion.text_encoder(ids[:, 0]).last_hidden_state)
    first = diffusion.text_encoder(ids[:, 0], output_hidden_states=True)
    second = diffusion.text_encoder_2(ids[:, 1], output_hidden_states=True)
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    return PromptEmbeds(states, second.text_embeds)


def _prompt_cache(diffusion: Diffusion) -> OrderedDict[Tokens, PromptEmbeds]:
    """The cache for the encoders' current weights; a new, empty one while they are trained."""
    weights = list(chain.from_iterable(e.parameters() for e in diffusion.text_encoders))
    if any(weight.requires_grad for weight in weights):
        return OrderedDict()
    # torch counts the in-place changes of each tensor, such as merging a LoRA.
    version = sum(weight._version for weight in weights)
    cache = _caches.get(diffusion.text_encoder)
    if cache is None or cache.weights_version != version:
        cache = _caches[diffusion.text_encoder] = _PromptCache(version)
    return cache.embeds


def _require_prompt_length(diffusion: Diffusion, prompt: str) -> None:
    limit = diffusion.tokenizer.model_max_length
    encoding = diffusion.tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    count = len(encoding.input_ids)
    if count <= limit:
        return
    # The end token takes the last position, so the token before it is the first one cut off.
    start, end = encoding.offset_mapping[limit - 1]
    before, after = prompt[:start].split(" ")[-1], prompt[end:].split(" ")[0]
    raise UserError(
        f"The prompt has {count - 2} tokens and {diffusion.name} reads {limit - 2}: shorten it, "
        f'because it would be cut at "{before}{prompt[start:end]}{after}".'
    )
