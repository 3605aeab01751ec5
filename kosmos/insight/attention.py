"""Attention maps: for each word of a caption, the patches that it depends on.

Kosmos-2's decoder does not read patches: it reads image embeddings, each of which one latent query
of the connector computed from the patches. So the map of a word over the patches is

    (attention of the word to the image embeddings) x (attention of the queries to the patches).

The row of a word is that of the position before it, where it is predicted. The connector's keys are
the class token, the patches and the queries themselves; the shares of the class token and of the
queries have no place in the image and are returned separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

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
    """The attention map of a word.

    `grid` is float32 [G,G] on the CPU, in row-major order of the patches. For the methods attention
    and rollout, the sum of `grid`, `class_token`, `queries` and `text` (everything that is no image
    embedding) is 1. For gradient they are relevances, 0 or more, and `text` is None. `by_layer`
    [L,G,G] is the contribution of each selected layer; None for rollout.
    """

    word: Word
    grid: Tensor
    class_token: float
    queries: float
    text: float | None
    by_layer: Tensor | None

    def to_dict(self) -> dict[str, Any]:
        """Return all but the layers as JSON data; the word is caption[start:end]."""
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
    caption: TokenizedCaption,
    words: Sequence[Word],
    *,
    method: str = "gradient",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[WordMap]:
    """Return the attention map of each of `words` of a caption of one image.

    `pixels` is [1,3,S,S] from `preprocess`. `method` is one of METHODS. `layers` and `heads` select
    those of the decoder, from 0; None selects all. All heads of the connector are used. The map of
    a word of several tokens is their mean.

    The method gradient runs a forward and a backward pass for each token; `batching` counts tokens,
    and no weight of the model may be an inference tensor.
    """
    if method == "gradient":
        return _gradient_maps(kosmos, pixels, caption, words, layers, heads, batching)
    with torch.no_grad():
        output = _forward(kosmos, patch_features(kosmos, pixels), caption)
    weights = _select(output.layers, layers, heads)
    attention = [rollout(weights)] if method == "rollout" else mean_over_heads(weights)
    connector = output.connector.float().mean(1)[0]
    maps = []
    for word in words:
        rows = [token - 1 for token in word.tokens]
        slots = torch.stack([layer[0, rows, slice(*caption.slots)].mean(0) for layer in attention])
        text = 1 - float(slots.mean(0).sum())
        keys = slots @ connector
        by_layer = None if method == "rollout" else keys
        maps.append(_word_map(kosmos, word, keys.mean(0), text, by_layer))
    return maps


def parse_indices(text: str, count: int, name: str) -> list[int] | None:
    """Parse a selection of `count` layers or heads: "all", "last", or indices as "0, 2-4".

    Returns None for all. Raises UserError, which names the input `name`, for anything else.
    """
    text = text.strip().lower()
    if text in ("", "all"):
        return None
    if text == "last":
        return [count - 1]
    indices: list[int] = []
    for part in text.split(","):
        first, _, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or not (last or first).isdecimal():
            raise UserError(
                f'"{part.strip()}" in {name} is not a number: write all, last, or numbers as '
                "0, 2-4."
            )
        if not int(first) <= int(last or first) < count:
            raise UserError(
                f'"{part.strip()}" in {name} does not exist: the model has 0 to {count - 1}.'
            )
        indices += range(int(first), int(last or first) + 1)
    return sorted(set(indices))


@torch.inference_mode(False)
def _gradient_maps(
    kosmos: Kosmos,
    pixels: Tensor,
    caption: TokenizedCaption,
    words: Sequence[Word],
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    batching: BatchOptions,
) -> list[WordMap]:
    """Return maps by gradient relevance; the score of a token is its predicted logit."""
    tokens = [token for word in words for token in word.tokens]
    # ComfyUI's images are inference tensors, which autograd cannot save: clone them.
    features = patch_features(kosmos, pixels.clone())

    def relevance_of_keys(batch: slice) -> list[Tensor]:
        part = tokens[batch]
        with torch.enable_grad():
            # With this input, attention weights have gradients even if the model is frozen.
            inputs = features.repeat(len(part), 1, 1).requires_grad_()
            output = _forward(kosmos, inputs, caption)
            logits = [
                output.logits[k, token - 1, caption.ids[token]] for k, token in enumerate(part)
            ]
            connector_gradient, *gradients = torch.autograd.grad(
                torch.stack(logits).sum(), [output.connector, *output.layers]
            )
        with torch.no_grad():
            selected = _select(output.layers, layers, heads), _select(gradients, layers, heads)
            relevance = [gradient_relevance(*selected), *map(positive_contribution, *selected)]
            connector = positive_contribution(output.connector, connector_gradient)
            return [
                torch.stack([layer[k, token - 1, slice(*caption.slots)] for layer in relevance])
                @ connector[k]
                for k, token in enumerate(part)
            ]

    # The backward pass needs the activations of all layers.
    size = choose_batch_size(kosmos.model, batching, len(caption.ids))
    size = max(1, size // kosmos.model.config.text_config.layers)
    keys = torch.stack(list(in_batches(len(tokens), size, relevance_of_keys, batching.on_batch)))
    by_word = [part.mean(0) for part in keys.split([len(word.tokens) for word in words])]
    return [
        _word_map(kosmos, word, part[0], None, part[1:])
        for word, part in zip(words, by_word, strict=True)
    ]


class _Output(NamedTuple):
    """Logits [N,T,V], and attention weights of each decoder layer [N,H,T,T] and of the connector
    [N,H,Q,K]."""

    logits: Tensor
    layers: Sequence[Tensor]
    connector: Tensor


def _forward(kosmos: Kosmos, patches: Tensor, caption: TokenizedCaption) -> _Output:
    """Run the model on a caption of each of N images, given by their `patch_features`."""
    model = kosmos.model
    ids = torch.tensor(caption.ids, device=model.device).repeat(len(patches), 1)
    mask = torch.zeros_like(ids)
    mask[:, slice(*caption.slots)] = 1
    with eager_attention(model.text_model.config):
        embeds, connector = model.image_to_text_projection(patches)
        output = model.text_model(
            input_ids=ids,
            image_embeds=embeds.contiguous(),
            image_embeds_position_mask=mask,
            use_cache=False,
            output_attentions=True,
        )
    return _Output(output.logits, output.attentions, connector)


@contextmanager
def eager_attention(*configs: PretrainedConfig) -> Iterator[None]:
    """Use eager attention, which returns its weights, in the modules with these configs.

    The config of Kosmos-2's decoder is also that of its connector. Modules read the implementation
    at each call, so nothing is rebuilt.
    """
    implementations = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in zip(configs, implementations, strict=True):
            config._attn_implementation = implementation


def _select(
    weights: Sequence[Tensor], layers: Sequence[int] | None, heads: Sequence[int] | None
) -> list[Tensor]:
    selected = list(weights) if layers is None else [weights[k] for k in layers]
    return selected if heads is None else [layer[:, list(heads)] for layer in selected]


def _word_map(
    kosmos: Kosmos, word: Word, keys: Tensor, text: float | None, by_layer: Tensor | None
) -> WordMap:
    """Split the relevance of the connector's keys, [K] in total and [L,K] by layer."""
    side = grid_side(kosmos)
    sizes = (1, side * side, kosmos.model.config.latent_query_num)
    class_token, patches, queries = keys.float().cpu().split(sizes)
    layers = None if by_layer is None else by_layer.float().cpu().split(sizes, dim=-1)[1]
    return WordMap(
        word,
        patches.view(side, side),
        float(class_token),
        float(queries.sum()),
        text,
        None if layers is None else layers.view(-1, side, side),
    )
