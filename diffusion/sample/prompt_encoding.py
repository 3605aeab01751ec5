"""Tokenize prompts and encode them with the model's text encoders."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from ...shared.text_files import replace_surrogates
from ..diffusion_model import Diffusion
from .prompt_chunks import Chunk, prompt_chunks
from .prompt_syntax import PLAIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE_SIZE = 64

Row = tuple[Chunk, ...]
"""A chunk of a prompt for each text encoder."""

ReadEmbedding = Callable[[str, int, str], torch.Tensor | None]
"""Returns the vectors [N,width] of an embedding by its name, the encoder's width and key."""

ENCODER_KEYS = ("clip_l", "clip_g")
"""The keys of the encoders in an embedding file."""


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
        """Concatenate along the batch dimension.

        The tokens of shorter prompts are repeated, which does not change the attention to them.
        """
        pooled = [part.pooled for part in parts if part.pooled is not None]
        tokens = math.lcm(*(part.states.shape[1] for part in parts))
        states = torch.cat(
            [part.states.repeat(1, tokens // part.states.shape[1], 1) for part in parts]
        )
        return PromptEmbeds(states, torch.cat(pooled) if pooled else None)


@dataclass
class _PromptCache:
    """Embeddings of chunks by their keys, valid while the encoders' weights have this version."""

    weights_version: int
    embeds: OrderedDict[object, PromptEmbeds] = field(default_factory=OrderedDict)


_caches: WeakKeyDictionary[torch.nn.Module, _PromptCache] = WeakKeyDictionary()


@torch.inference_mode(False)
@torch.no_grad()
def encode_prompts(
    diffusion: Diffusion,
    prompts: Iterable[str],
    syntax: str = PLAIN,
    read_embedding: ReadEmbedding | None = None,
) -> dict[str, PromptEmbeds]:
    """Encode each distinct prompt once; the last chunks of frozen encoders are cached.

    A prompt longer than the encoder's context is encoded in chunks, whose tokens are concatenated.
    `syntax` and `read_embedding` are as in `prompt_chunks`. A token with a weight is moved away
    from the same token of the empty prompt, or towards it, as in ComfyUI.

    Returns prompt -> PromptEmbeds of one prompt, on the text encoder's device and in its dtype.
    """
    rows = {prompt: _rows(diffusion, prompt, syntax, read_embedding) for prompt in prompts}
    weighted = any(_has_weights(row) for of_prompt in rows.values() for row in of_prompt)
    [empty] = _rows(diffusion, "", PLAIN, None)
    needed = {_key(row): row for of_prompt in rows.values() for row in of_prompt}
    if weighted:
        needed[_key(empty)] = empty
    encoder = diffusion.text_encoder
    cache = _prompt_cache(diffusion)
    new = {key: row for key, row in needed.items() if key not in cache}
    if new:
        diffusion.load(*(name for name in diffusion.modules if name.startswith("text_encoder")))
        encoded = _encode_rows(diffusion, list(new.values())).to(torch.device("cpu"))
        cache.update((key, encoded[k : k + 1]) for k, key in enumerate(new))
    for key in needed:
        cache.move_to_end(key)
    chunks = {key: cache[key].to(encoder.device, encoder.dtype) for key in needed}
    embeds = {}
    for prompt, of_prompt in rows.items():
        states = [chunks[_key(row)].states for row in of_prompt]
        if any(map(_has_weights, of_prompt)):
            neutral = chunks[_key(empty)].states
            states = [
                _apply_weights(diffusion, row, own, neutral)
                for row, own in zip(of_prompt, states, strict=True)
            ]
        embeds[prompt] = PromptEmbeds(torch.cat(states, 1), chunks[_key(of_prompt[0])].pooled)
    while len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
    return embeds


def _rows(
    diffusion: Diffusion, prompt: str, syntax: str, read_embedding: ReadEmbedding | None
) -> list[Row]:
    """Return the chunks of a prompt for all encoders."""
    encoders = diffusion.text_encoders
    per_encoder = []
    for tokenizer, encoder, key in zip(
        _tokenizers(diffusion), encoders, ENCODER_KEYS, strict=False
    ):
        width = encoder.config.hidden_size
        read = partial(_vectors, read_embedding, width, key) if read_embedding else None
        per_encoder.append(prompt_chunks(tokenizer, replace_surrogates(prompt), syntax, read))
    # An embedding may have more vectors for one encoder; ComfyUI cuts the longer prompt too.
    return list(zip(*per_encoder, strict=False))


def _vectors(read: ReadEmbedding, width: int, key: str, name: str) -> torch.Tensor | None:
    """Return an embedding's vectors, or None when they are not of the encoder's width."""
    vectors = read(name, width, key)
    return vectors if vectors is not None and vectors.shape[-1] == width else None


def _key(row: Row) -> tuple[object, ...]:
    return tuple(chunk.key for chunk in row)


def _has_weights(row: Row) -> bool:
    return any(weight != 1 for chunk in row for weight in chunk.weights)


def _encode_rows(diffusion: Diffusion, rows: Sequence[Row]) -> PromptEmbeds:
    ids = torch.tensor([[chunk.ids for chunk in row] for row in rows])
    with ExitStack() as inserted:
        for k, encoder in enumerate(diffusion.text_encoders):
            vectors = [row[k].vectors for row in rows]
            if any(vectors):
                inserted.enter_context(_inserted_vectors(encoder, vectors))
        return encode_tokens(diffusion, ids.to(diffusion.text_encoder.device))


@contextmanager
def _inserted_vectors(
    encoder: torch.nn.Module, rows: Sequence[Sequence[tuple[int, torch.Tensor]]]
) -> Iterator[None]:
    """Replace token embeddings [N,tokens,width] at the given indices of each row meanwhile."""

    def insert(_: torch.nn.Module, __: object, embeds: torch.Tensor) -> torch.Tensor:
        embeds = embeds.clone()
        for k, row in enumerate(rows):
            for index, vector in row:
                embeds[k, index] = vector.to(embeds)
        return embeds

    handle = encoder.get_input_embeddings().register_forward_hook(insert)  # type: ignore[operator]
    try:
        yield
    finally:
        handle.remove()


def _apply_weights(
    diffusion: Diffusion, row: Row, states: torch.Tensor, empty: torch.Tensor
) -> torch.Tensor:
    """Scale the distance of each token of a chunk [1,tokens,width] from the empty prompt's."""
    weights = torch.cat(
        [
            torch.tensor(chunk.weights)[:, None].expand(-1, encoder.config.hidden_size)
            for chunk, encoder in zip(row, diffusion.text_encoders, strict=True)
        ],
        1,
    ).to(states.device)
    own, neutral = states.float(), empty.float()
    scaled = (own - neutral) * weights + neutral
    return torch.where(weights == 1, own, scaled).to(states.dtype)


def encode_chunks(diffusion: Diffusion, prompts: Sequence[torch.Tensor]) -> PromptEmbeds:
    """Encode prompts that are given as token ids of their chunks, [chunks,E,tokens] each.

    Gradients reach the encoders' weights.
    """
    encoded = encode_tokens(diffusion, torch.cat(list(prompts)))
    if len(encoded) == len(prompts):
        return encoded
    parts, start = [], 0
    for ids in prompts:
        part = encoded[start : start + len(ids)]
        start += len(ids)
        pooled = None if part.pooled is None else part.pooled[:1]
        parts.append(PromptEmbeds(part.states.flatten(0, 1)[None], pooled))
    return PromptEmbeds.join(parts)


def tokenize_chunks(diffusion: Diffusion, prompt: str) -> torch.Tensor:
    """Return the token ids [chunks,E,tokens] of a prompt of any length, read as plain text."""
    return torch.tensor(
        [[chunk.ids for chunk in row] for row in _rows(diffusion, prompt, PLAIN, None)]
    )


def _tokenizers(diffusion: Diffusion) -> list[PreTrainedTokenizerBase]:
    both = diffusion.tokenizer, diffusion.tokenizer_2
    return [tokenizer for tokenizer in both if tokenizer is not None]


def tokenize(diffusion: Diffusion, prompts: Sequence[str]) -> torch.Tensor:
    """Return token ids [N,E,tokens] of N prompts for the model's E text encoders, padded."""
    rows = []
    for tokenizer in _tokenizers(diffusion):
        length = tokenizer.model_max_length
        encoding = tokenizer(
            list(map(replace_surrogates, prompts)), padding="max_length", max_length=length
        )
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


def _prompt_cache(diffusion: Diffusion) -> OrderedDict[object, PromptEmbeds]:
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
