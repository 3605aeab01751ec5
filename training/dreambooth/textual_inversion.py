"""Textual inversion: vectors of its own for a word, every other weight as it was.

Gal et al. 2022, "An Image is Worth One Word". A file holds the vectors as ComfyUI reads them from
models/embeddings: `clip_l` [n,width], one row for each token that stands in the word's place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, Regex, normalizers

from ...diffusion.diffusion_model import Diffusion
from ...shared.errors import UserError
from ..run.checkpoints import write_tensors

KEY = "clip_l"
PLACEHOLDERS = 0xE000
"""Unicode's first private character: no prompt has it, so it can stand for a learned token."""


@dataclass(frozen=True, eq=False)
class TokenEmbedding:
    """What a word means: `vectors` [n,width], float32, one row for each token in its place."""

    word: str
    vectors: torch.Tensor


class LearnedTokens(torch.nn.Module):
    """A table of token embeddings [V,D] that stays, and trainable rows [n,D] behind its end."""

    def __init__(self, table: torch.nn.Embedding, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.vectors = torch.nn.Parameter(vectors)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [...,D] of ids [...] below V + n."""
        known = len(self.table.weight)
        old = self.table(ids.clamp(max=known - 1))
        new = self.vectors[(ids - known).clamp(min=0)].to(old.dtype)
        return torch.where((ids < known).unsqueeze(-1), old, new)


def first_vectors(diffusion: Diffusion, class_name: str, count: int) -> torch.Tensor:
    """Return what to start from, [count,D]: the mean of the class's own tokens."""
    ids = diffusion.tokenizer(class_name, add_special_tokens=False).input_ids
    table = diffusion.text_encoder.get_input_embeddings().weight
    return table[ids].detach().float().mean(0, keepdim=True).repeat(count, 1)


def make_trainable(diffusion: Diffusion, first: TokenEmbedding) -> Diffusion:
    """Return the model with a word whose vectors, and nothing else, are trained from `first` on.

    Raises UserError for a model that reads its prompts twice.
    """
    if diffusion.text_encoder_2 is not None:
        raise UserError(
            f"{diffusion.name} reads a word with two text encoders, and vectors are learned for "
            "one: choose DreamBoothTrain with the method lora, or a Stable Diffusion 1.x or 2.x."
        )
    tokenizer = _tokenizer_with(diffusion, first)
    embeddings = diffusion.text_encoder.embeddings
    embeddings.token_embedding = LearnedTokens(embeddings.token_embedding, first.vectors)
    return replace(diffusion, tokenizer=tokenizer)


def trained(diffusion: Diffusion, word: str) -> TokenEmbedding:
    """Return what `make_trainable`'s vectors have become."""
    learned = diffusion.text_encoder.embeddings.token_embedding
    return TokenEmbedding(word, learned.vectors.detach().float().cpu())


@torch.no_grad()
def add_token(diffusion: Diffusion, embedding: TokenEmbedding) -> Diffusion:
    """Return a model that was just loaded, with a word that means the embedding.

    Raises UserError when the vectors are of another width than the model's.
    """
    encoder = diffusion.text_encoder
    known, width = encoder.get_input_embeddings().weight.shape
    if embedding.vectors.shape[1] != width:
        raise UserError(
            f'The embedding of "{embedding.word}" has width {embedding.vectors.shape[1]} and '
            f"{diffusion.name} reads width {width}: choose the model it was made with."
        )
    tokenizer = _tokenizer_with(diffusion, embedding)
    encoder.resize_token_embeddings(known + len(embedding.vectors), mean_resizing=False)
    encoder.get_input_embeddings().weight[known:] = embedding.vectors.to(encoder.dtype)
    encoder.requires_grad_(False)
    return replace(diffusion, tokenizer=tokenizer)


def _tokenizer_with(diffusion: Diffusion, embedding: TokenEmbedding) -> object:
    """A tokenizer that reads the word as tokens of its own, whatever it was read as before."""
    tokenizer = deepcopy(diffusion.tokenizer)
    known = len(diffusion.text_encoder.get_input_embeddings().weight)
    marks = [chr(PLACEHOLDERS + len(tokenizer) % 4096 + k) for k in range(len(embedding.vectors))]
    tokenizer.add_tokens([AddedToken(mark) for mark in marks])
    if tokenizer.convert_tokens_to_ids(marks) != list(range(known, known + len(marks))):
        raise UserError(
            f"{diffusion.name} has {known} token embeddings, and its vocabulary is of another "
            "size: choose a model whose parts belong together."
        )
    word = Regex(rf"(?i)(?<!\w){re.escape(embedding.word)}(?!\w)")
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(word, " ".join(marks)), backend.normalizer]
    )
    return tokenizer


def write_embedding(file: Path, embedding: TokenEmbedding, metadata: dict[str, str]) -> None:
    """Write a file that ComfyUI's `embedding:<name>` reads; OSError when the disk is full."""
    write_tensors(file, {KEY: embedding.vectors}, {"word": embedding.word} | metadata)


def is_embedding(file: Path) -> bool:
    """Tell whether a safetensors file holds an embedding (and not, say, a LoRA)."""
    with safe_open(file, framework="pt") as held:
        return KEY in held.keys()  # noqa: SIM118


def read_embedding(file: Path, word: str = "") -> TokenEmbedding:
    """Read an embedding file, for a word or for the one that it was learned for.

    Raises UserError when it is damaged or holds something else.
    """
    try:
        with safe_open(file, framework="pt") as held:
            vectors, known = held.get_tensor(KEY), (held.metadata() or {}).get("word", "")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} holds no {KEY} vectors ({error}): choose an embedding of Stable Diffusion 1.x "
            "in the safetensors format."
        ) from error
    return TokenEmbedding(word or known or file.stem, vectors.float())


def merge(parts: Sequence[TokenEmbedding], word: str, share: float | None) -> TokenEmbedding:
    """Put embeddings into one for `word`: one behind the other, or mixed.

    `share` is the second one's in a mix of two; None joins. Raises UserError when their shapes
    do not allow it.
    """
    shapes = [tuple(part.vectors.shape) for part in parts]
    if len({width for _, width in shapes}) > 1:
        raise UserError(
            f"The embeddings are of widths {' and '.join(str(width) for _, width in shapes)}: "
            "merge such as were learned with one kind of model."
        )
    if share is None or len(parts) == 1:
        return TokenEmbedding(word, torch.cat([part.vectors for part in parts]))
    if len(set(shapes)) > 1:
        raise UserError(
            f"The embeddings have {' and '.join(str(count) for count, _ in shapes)} vectors and "
            "cannot be mixed: choose the mode join."
        )
    first, second = (part.vectors for part in parts)
    return TokenEmbedding(word, torch.lerp(first, second, share))
