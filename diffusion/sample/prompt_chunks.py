"""Split prompts of any length into chunks that a text encoder reads, as ComfyUI does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...shared.text_files import replace_surrogates
from .prompt_syntax import COMFYUI, EMBEDDING, embedding_name, parse_weights, split_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_UNDIVIDED = 8
"""Parts of fewer tokens are not divided between two chunks but begin the next one."""

ReadEmbedding = Callable[[str], torch.Tensor | None]
"""Returns the vectors [N,width] of an embedding by its name, or None if there is none."""

Token = int | torch.Tensor
"""An id of the vocabulary, or a vector [width] in its place."""


@dataclass(frozen=True)
class Chunk:
    """The tokens of one pass of a text encoder, from the start token to the padding.

    `ids` and `weights` have one entry per token. `vectors` are those of embeddings, by index; there
    `ids` has the start token.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    vectors: tuple[tuple[int, torch.Tensor], ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What the encoder's output depends on, hashable."""
        return self.ids, tuple((k, vector.numpy().tobytes()) for k, vector in self.vectors)


def prompt_chunks(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    syntax: str,
    read_embedding: ReadEmbedding | None = None,
) -> list[Chunk]:
    """Return the chunks of a prompt, each of `tokenizer.model_max_length` tokens.

    `syntax` is one of SYNTAXES; without `read_embedding`, `embedding:name` is text. Raises
    UserError as `parse_weights`.
    """
    start, end = tokenizer("").input_ids[:2]
    length = tokenizer.model_max_length
    chunk: list[tuple[Token, float]] = [(start, 1.0)]
    chunks = [chunk]
    for part in _parts(tokenizer, prompt, syntax, read_embedding):
        divisible = len(part) >= min(MAX_UNDIVIDED, length - 1)
        while len(part) > (free := length - 1 - len(chunk)):
            if divisible:
                chunk += part[:free]
                part = part[free:]
            chunk.append((end, 1.0))
            chunk = [(start, 1.0)]
            chunks.append(chunk)
        chunk += part
    chunk.append((end, 1.0))
    pad = (tokenizer.pad_token_id, 1.0)
    return [_chunk(tokens + [pad] * (length - len(tokens)), start) for tokens in chunks]


def _chunk(tokens: list[tuple[Token, float]], start: int) -> Chunk:
    return Chunk(
        tuple(token if isinstance(token, int) else start for token, _ in tokens),
        tuple(weight for _, weight in tokens),
        tuple((k, token) for k, (token, _) in enumerate(tokens) if not isinstance(token, int)),
    )


def _parts(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    syntax: str,
    read_embedding: ReadEmbedding | None,
) -> Iterator[list[tuple[Token, float]]]:
    """Yield the tokens of each part of a prompt with one weight, and of each embedding."""

    def weighted(text: str, weight: float) -> list[tuple[Token, float]]:
        ids = tokenizer(text, verbose=False).input_ids[1:-1]
        return [(token, weight) for token in ids]

    if syntax != COMFYUI:
        yield weighted(prompt, 1.0)
        return
    for text, weight in parse_weights(prompt):
        for part in split_embeddings(text):
            if read_embedding is None or not part.startswith(EMBEDDING):
                yield weighted(part, weight)
                continue
            vectors, following = _embedding(part, read_embedding)
            if vectors is not None:
                yield [(vector, weight) for vector in vectors]
            if following:
                yield weighted(following, weight)


def _embedding(text: str, read: ReadEmbedding) -> tuple[torch.Tensor | None, str]:
    """Return the vectors of the embedding that a text begins with, and the text that follows."""
    name, following = embedding_name(text)
    vectors = read(name)
    if vectors is None and name.endswith(","):
        bare = name.rstrip(",")
        vectors, following = read(bare), f"{name[len(bare) :]} {following}"
    if vectors is None:
        logger.warning('There is no embedding "%s" for this model: it is left out', name)
        return None, following
    return vectors.detach().float().cpu().reshape(-1, vectors.shape[-1]), following


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return the number of tokens of a text, without start and end token."""
    return len(tokenizer(replace_surrogates(text), verbose=False).input_ids) - 2


def truncate_at_word(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the words of a text, from its first one, that fit into one chunk."""
    limit = tokenizer.model_max_length - 2
    if count_tokens(tokenizer, text) <= limit:
        return text
    text = replace_surrogates(text)
    encoding = tokenizer(text, return_offsets_mapping=True, verbose=False)
    # Index 0 is the start token, so this is the first token that is cut off.
    cut = encoding.offset_mapping[limit + 1][0]
    words = text[:cut].rstrip()
    if cut == len(words) and not text[cut].isspace():
        words = words.rpartition(" ")[0] or words
    return words.rstrip(" ,;")
