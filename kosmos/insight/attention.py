"""For each word of a caption, the patches that it rests on.

Kosmos-2's decoder never sees a patch: it sees the slots, and each slot is what one latent query of
the connector gathered from the patches. So a word's map over the patches is

    (the word's attention to the slots) x (the slots' attention to the patches).

The word's row is that of the position before it, from which it was predicted. The connector's keys
are the class token, the patches and the queries themselves; what goes to the class token and to the
queries lies nowhere in the picture, and is reported beside the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Kosmos2ForConditionalGeneration

from ...shared.batching import DEFAULT_BATCHES, BatchOptions, in_batches
from ...shared.errors import UserError
from ..generate.batch_size import choose_batch_size
from ..kosmos_model import Kosmos
from ..tokenized_caption import TokenizedCaption, Word
from .patches import grid_side, patch_features
from .relevance import gradient_relevance, mean_over_heads, positive_contribution, rollout

METHODS = ("gradient", "attention", "rollout")


@dataclass(frozen=True)
class WordMap:
    """Where a word rests.

    `grid` is float32 [G,G] on the CPU, row by row from the upper left patch. For the methods
    attention and rollout its sum, `class_token`, `queries` and `text` (all that is no image slot)
    are shares that add up to 1. For gradient they are relevances, 0 or more, and `text` is None.
    `by_layer` [L,G,G] holds what each layer that counts contributed by itself; None for rollout,
    which has no such parts.
    """

    word: Word
    grid: Tensor
    class_token: float
    queries: float
    text: float | None
    by_layer: Tensor | None

    def as_numbers(self) -> dict[str, Any]:
        """Return all but the layers as JSON knows it; `start`, `end`: the word's in its caption."""
        return {
            "word": self.word.text,
            "start": self.word.start,
            "end": self.word.end,
            "grid": self.grid.tolist(),
            "class_token": self.class_token,
            "queries": self.queries,
            "text": self.text,
        }


def word_maps(
    kosmos: Kosmos,
    pixels: Tensor,
    spelled: TokenizedCaption,
    words: Sequence[Word],
    *,
    method: str = "gradient",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[WordMap]:
    """Return a map for each of `words` of a caption under one picture.

    `pixels` is [1,3,S,S] from `preprocess`. `layers` and `heads` are those of the decoder that
    count, from 0, all if None; the connector's heads always count all. `method` is one of METHODS;
    of a word of several tokens it is the mean over them.

    Attention weights are computed openly in this pass only. gradient takes a pass forward and back
    for each token, some at a time: `batching` counts tokens, and none of the model's weights may be
    an inference tensor.
    """
    if method == "gradient":
        return _by_gradient(kosmos, pixels, spelled, words, layers, heads, batching)
    with torch.no_grad():
        read = _read(kosmos, patch_features(kosmos, pixels), spelled)
    chosen = _choose(read.layers, layers, heads)
    follow = [rollout(chosen)] if method == "rollout" else mean_over_heads(chosen)
    connector = read.connector.float().mean(1)[0]
    maps = []
    for word in words:
        rows = [token - 1 for token in word.tokens]
        slots = torch.stack([layer[0, rows, slice(*spelled.slots)].mean(0) for layer in follow])
        text = 1 - float(slots.mean(0).sum())
        keys = slots @ connector
        maps.append(_map(kosmos, word, keys.mean(0), text, None if method == "rollout" else keys))
    return maps


def parse_indices(text: str, count: int, what: str) -> list[int] | None:
    """Read which of `count` layers or heads are meant: "all", "last", or numbers as "0, 2-4".

    Returns None for all. Raises UserError for anything else.
    """
    text = text.strip().lower()
    if text in ("", "all"):
        return None
    if text == "last":
        return [count - 1]
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or not (last or first).isdecimal():
            raise UserError(
                f'"{part.strip()}" in {what} is no number: write all, last, or numbers as 0, 2-4.'
            )
        if not int(first) <= int(last or first) < count:
            raise UserError(
                f'"{part.strip()}" in {what} is not there: the model has 0 to {count - 1}.'
            )
        chosen += range(int(first), int(last or first) + 1)
    return sorted(set(chosen))


@torch.inference_mode(False)
def _by_gradient(
    kosmos: Kosmos,
    pixels: Tensor,
    spelled: TokenizedCaption,
    words: Sequence[Word],
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    batching: BatchOptions,
) -> list[WordMap]:
    """Take the logit of each token, where it is predicted, as the score that attention raised."""
    tokens = [token for word in words for token in word.tokens]
    # A tensor made in inference mode, as ComfyUI's pictures are, cannot be kept for a gradient.
    features = patch_features(kosmos, pixels.clone())

    def keys(batch: slice) -> list[Tensor]:
        part = tokens[batch]
        with torch.enable_grad():
            # Whether the model's weights ask for gradients or not, those of attention do from here.
            read = _read(kosmos, features.repeat(len(part), 1, 1).requires_grad_(), spelled)
            logits = [read.logits[k, token - 1, spelled.ids[token]] for k, token in enumerate(part)]
            by_connector, *by_layers = torch.autograd.grad(
                torch.stack(logits).sum(), [read.connector, *read.layers]
            )
        with torch.no_grad():
            chosen = _choose(read.layers, layers, heads), _choose(by_layers, layers, heads)
            follow = [gradient_relevance(*chosen), *map(positive_contribution, *chosen)]
            connector = positive_contribution(read.connector, by_connector)
            return [
                torch.stack([one[k, token - 1, slice(*spelled.slots)] for one in follow])
                @ connector[k]
                for k, token in enumerate(part)
            ]

    # For the way back, the activations of all layers are kept, and not of one.
    size = choose_batch_size(kosmos.model, batching, len(spelled.ids))
    size = max(1, size // kosmos.model.config.text_config.layers)
    found = torch.stack(list(in_batches(len(tokens), size, keys, batching.on_batch)))
    by_word = [own.mean(0) for own in found.split([len(word.tokens) for word in words])]
    return [
        _map(kosmos, word, own[0], None, own[1:]) for word, own in zip(words, by_word, strict=True)
    ]


class _Read(NamedTuple):
    """What one pass over N copies of a caption gave: logits [N,T,V] and attention weights, of the
    decoder's layers [N,H,T,T] and of the connector [N,H,Q,K]."""

    logits: Tensor
    layers: Sequence[Tensor]
    connector: Tensor


def _read(kosmos: Kosmos, patches: Tensor, spelled: TokenizedCaption) -> _Read:
    """Read a caption under each of N pictures' `patches`, from `patch_features`."""
    model = kosmos.model
    ids = torch.tensor(spelled.ids, device=model.device).repeat(len(patches), 1)
    slots = torch.zeros_like(ids)
    slots[:, slice(*spelled.slots)] = 1
    with eager_attention(model):
        features, connector = model.image_to_text_projection(patches)
        seen = model.text_model(
            input_ids=ids,
            image_embeds=features.contiguous(),
            image_embeds_position_mask=slots,
            use_cache=False,
            output_attentions=True,
        )
    return _Read(seen.logits, seen.attentions, connector)


@contextmanager
def eager_attention(model: Kosmos2ForConditionalGeneration) -> Iterator[None]:
    """Let the decoder and the connector compute attention openly ("eager") for as long as needed.

    Fused attention never forms the weights. Both read the kind of attention from one configuration
    at each call, so nothing is rebuilt, and afterwards the model is as fast as before.
    """
    config = model.text_model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def _choose(
    weights: Sequence[Tensor], layers: Sequence[int] | None, heads: Sequence[int] | None
) -> list[Tensor]:
    chosen = list(weights) if layers is None else [weights[k] for k in layers]
    return chosen if heads is None else [layer[:, list(heads)] for layer in chosen]


def _map(
    kosmos: Kosmos, word: Word, keys: Tensor, text: float | None, by_layer: Tensor | None
) -> WordMap:
    """Part what lies on the connector's keys, in all [K] and by layer [L,K]."""
    side = grid_side(kosmos)
    parts = (1, side * side, kosmos.model.config.latent_query_num)
    class_token, patches, queries = keys.float().cpu().split(parts)
    layers = None if by_layer is None else by_layer.float().cpu().split(parts, dim=-1)[1]
    return WordMap(
        word,
        patches.view(side, side),
        float(class_token),
        float(queries.sum()),
        text,
        None if layers is None else layers.view(-1, side, side),
    )
