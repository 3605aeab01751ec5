"""Choose the batch size of a Kosmos-2 from its estimated and measured memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from ...shared.batching import BatchOptions
from ...shared.peak_memory import watch_peak

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration

MAX_BATCH = 32
"""Larger batches are not faster."""

CPU_MULTIPLICATIONS = 1e12
"""Multiply-adds that a CPU may do between two checks for Cancel: seconds, not minutes."""

MEMORY_SHARE = 0.5
"""The share of the free memory to use; fragmentation and other programs take the rest."""

MIN_COST_SHARE = 0.1
"""Lower bound of the measured share: on a CPU a batch may reuse memory already allocated."""

_cost_shares: WeakKeyDictionary[torch.nn.Module, float] = WeakKeyDictionary()


def choose_batch_size(
    model: Kosmos2ForConditionalGeneration,
    options: BatchOptions,
    length: int,
    tokens_per_pass: int | None = None,
) -> int:
    """Return how many sequences of `length` tokens to process at a time, at least 1.

    A sequence costs `bytes_per_sequence`, scaled by the share of it that was measured on this
    model. Without `options.free_memory` only the device decides, by the `tokens_per_pass` (all by
    default) that a forward pass reads of each sequence.
    """
    if options.batch_size:
        return options.batch_size
    size = max_sequences_per_pass(model, tokens_per_pass or length)
    if options.free_memory is not None:
        cost = bytes_per_sequence(model, length) * cost_share(model)
        size = min(size, int(options.free_memory * MEMORY_SHARE / cost))
    return max(1, size)


def max_sequences_per_pass(model: Kosmos2ForConditionalGeneration, length: int) -> int:
    """Return how many sequences of `length` tokens one forward pass may read.

    On a CPU this bounds the time until Cancel is checked again.
    """
    if model.device.type != "cpu":
        return MAX_BATCH
    multiplications = 2 * model.num_parameters() * length
    return min(MAX_BATCH, max(1, int(CPU_MULTIPLICATIONS / multiplications)))


def bytes_per_sequence(model: Kosmos2ForConditionalGeneration, length: int) -> int:
    """Return an upper bound of the bytes that an image with `length` tokens takes.

    Counts the activations of one layer of each tower with its attention scores, the KV cache
    (twice, as that of the image is copied for each prompt) and the float32 logits, not the weights.
    The real cost is a quarter to a half of it, as `cost_share` measures.
    """
    vision, text = model.config.vision_config, model.config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    encoder = patches * (8 * vision.hidden_size + 2 * vision.intermediate_size)
    encoder += vision.num_attention_heads * patches**2
    decoder = length * (8 * text.embed_dim + 2 * text.ffn_dim) + text.attention_heads * length**2
    cache = 2 * 2 * text.layers * text.embed_dim * length
    return (encoder + decoder + cache) * model.dtype.itemsize + 3 * 4 * text.vocab_size


def cost_share(model: torch.nn.Module) -> float:
    """Return the highest share of its estimate that a batch of the model took; 1 if unmeasured."""
    return _cost_shares.get(model, 1.0)


@contextmanager
def measure_cost_share(
    model: torch.nn.Module, device: torch.device, estimate: int
) -> Iterator[None]:
    """Compare the peak memory of the block with its `estimate` in bytes, for `cost_share`."""
    peak_rise = watch_peak(device)
    yield
    if peak_rise is not None:
        share = max(MIN_COST_SHARE, peak_rise() / estimate)
        _cost_shares[model] = max(share, _cost_shares.get(model, 0.0))
