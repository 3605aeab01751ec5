"""Textual inversion (Gal et al. 2022, "An Image is Worth One Word"): trained token embeddings.

A file holds the vectors as ComfyUI reads them from models/embeddings: `clip_l` [n,width], one row
for each token that replaces the trigger word.
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
"""The first private-use character of Unicode: absent from prompts, so it can name a new token."""


@dataclass(frozen=True, eq=False)
class TokenEmbedding:
    """A trigger word and its `vectors` [n,width], float32, one row per token that replaces it."""

    trigger: str
    vectors: torch.Tensor


class TrainableEmbedding(torch.nn.Module):
    """A frozen table of token embeddings [V,D], extended by trainable rows [n,D]."""

    def __init__(self, table: torch.nn.Embedding, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.vectors = torch.nn.Parameter(vectors)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [...,D] of ids [...] below V + n."""
        size = len(self.table.weight)
        frozen = self.table(ids.clamp(max=size - 1))
        trained = self.vectors[(ids - size).clamp(min=0)].to(frozen.dtype)
        return torch.where((ids < size).unsqueeze(-1), frozen, trained)


def initial_vectors(diffusion: Diffusion, class_name: str, count: int) -> torch.Tensor:
    """Return the vectors to start from, [count,D]: each the mean of the class name's tokens."""
    ids = diffusion.tokenizer(class_name, add_special_tokens=False).input_ids
    table = diffusion.text_encoder.get_input_embeddings().weight
    return table[ids].detach().float().mean(0, keepdim=True).repeat(count, 1)


def make_trainable(diffusion: Diffusion, initial: TokenEmbedding) -> Diffusion:
    """Return the model with a trigger word whose vectors are its only trainable parameters.

    Raises UserError for a model with two text encoders.
    """
    if diffusion.text_encoder_2 is not None:
        raise UserError(
            f"{diffusion.name} has two text encoders, and textual inversion supports one: use "
            "DreamBoothTrain with the method lora, or a Stable Diffusion 1.x or 2.x."
        )
    tokenizer = _extended_tokenizer(diffusion, initial)
    embeddings = diffusion.text_encoder.embeddings
    embeddings.token_embedding = TrainableEmbedding(embeddings.token_embedding, initial.vectors)
    return replace(diffusion, tokenizer=tokenizer)


def trained_embedding(diffusion: Diffusion, trigger: str) -> TokenEmbedding:
    """Return the current vectors of a model from `make_trainable`."""
    table = diffusion.text_encoder.embeddings.token_embedding
    return TokenEmbedding(trigger, table.vectors.detach().float().cpu())


@torch.no_grad()
def add_token(diffusion: Diffusion, embedding: TokenEmbedding) -> Diffusion:
    """Add an embedding's tokens to a newly loaded model, whose text encoder is changed in place.

    Raises UserError when the width of the vectors is not that of the model.
    """
    encoder = diffusion.text_encoder
    size, width = encoder.get_input_embeddings().weight.shape
    if embedding.vectors.shape[1] != width:
        raise UserError(
            f'The embedding of "{embedding.trigger}" has width {embedding.vectors.shape[1]} and '
            f"{diffusion.name} needs width {width}: choose the model it was made with."
        )
    tokenizer = _extended_tokenizer(diffusion, embedding)
    encoder.resize_token_embeddings(size + len(embedding.vectors), mean_resizing=False)
    encoder.get_input_embeddings().weight[size:] = embedding.vectors.to(encoder.dtype)
    encoder.requires_grad_(False)
    return replace(diffusion, tokenizer=tokenizer)


def _extended_tokenizer(diffusion: Diffusion, embedding: TokenEmbedding) -> object:
    """Return a tokenizer that replaces the trigger word by new tokens."""
    tokenizer = deepcopy(diffusion.tokenizer)
    size = len(diffusion.text_encoder.get_input_embeddings().weight)
    tokens = [chr(PLACEHOLDERS + len(tokenizer) % 4096 + k) for k in range(len(embedding.vectors))]
    tokenizer.add_tokens([AddedToken(token) for token in tokens])
    if tokenizer.convert_tokens_to_ids(tokens) != list(range(size, size + len(tokens))):
        raise UserError(
            f"{diffusion.name} has {size} token embeddings, and its vocabulary is of another "
            "size: choose a model whose parts belong together."
        )
    trigger = Regex(rf"(?i)(?<!\w){re.escape(embedding.trigger)}(?!\w)")
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(trigger, " ".join(tokens)), backend.normalizer]
    )
    return tokenizer


def write_embedding(file: Path, embedding: TokenEmbedding, metadata: dict[str, str]) -> None:
    """Write a file that ComfyUI's `embedding:<name>` reads; UserError when the disk is full."""
    write_tensors(file, {KEY: embedding.vectors}, {"word": embedding.trigger} | metadata)


def is_embedding(file: Path) -> bool:
    """Tell whether a safetensors file holds an embedding (and not, say, a LoRA).

    Raises UserError when the file is missing or damaged.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            return KEY in tensors.keys()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is missing or damaged ({error}): copy it again.") from error


def read_embedding(file: Path, trigger: str = "") -> TokenEmbedding:
    """Read an embedding file; `trigger` replaces the trigger word it was trained with.

    Raises UserError when the file is damaged or holds something else.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            vectors = tensors.get_tensor(KEY)
            trigger = trigger or (tensors.metadata() or {}).get("word", "")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} holds no {KEY} vectors ({error}): choose an embedding of Stable Diffusion 1.x "
            "in the safetensors format."
        ) from error
    if vectors.ndim != 2 or 0 in vectors.shape or not vectors.float().isfinite().all():
        raise UserError(
            f"{file} has vectors of the shape {list(vectors.shape)} or that are NaN or infinite: "
            "choose another embedding."
        )
    return TokenEmbedding(trigger or file.stem, vectors.float())


def merge_embeddings(
    embeddings: Sequence[TokenEmbedding], trigger: str, share: float | None
) -> TokenEmbedding:
    """Merge embeddings into one for `trigger`: concatenated, or two interpolated.

    `share` 0..1 is the weight of the second of two in an interpolation; None concatenates. Raises
    UserError when the shapes do not allow it.
    """
    shapes = [tuple(embedding.vectors.shape) for embedding in embeddings]
    if len({width for _, width in shapes}) > 1:
        raise UserError(
            f"The embeddings have the widths {' and '.join(str(width) for _, width in shapes)}: "
            "merge embeddings that were trained with the same kind of model."
        )
    if share is None or len(embeddings) == 1:
        return TokenEmbedding(trigger, torch.cat([part.vectors for part in embeddings]))
    if len(set(shapes)) > 1:
        raise UserError(
            f"The embeddings have {' and '.join(str(count) for count, _ in shapes)} vectors and "
            "cannot be mixed: choose the mode join."
        )
    first, second = (embedding.vectors for embedding in embeddings)
    return TokenEmbedding(trigger, torch.lerp(first, second, share))
