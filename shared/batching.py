"""How many pictures at a time, and what to do when that was too many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from .errors import UserError
from .peak_memory import share_taken

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MOST_AT_ONCE = 32
"""More pictures gain no speed."""

CPU_WORK = 1e12
"""Multiplications and additions that a CPU may do before it reads Cancel: seconds, not minutes."""

SHARE = 0.5
"""The part of the free memory to plan with; fragments and other programs have the rest."""


@dataclass(frozen=True)
class BatchOptions:
    """How work is cut into batches, and who watches it.

    `batch_size` 0 takes as many items at a time as fit into `free_memory` (bytes). `on_batch` hears
    how many items of how many are done; `on_token` is called after each token. What either raises
    ends the work.
    """

    batch_size: int = 0
    free_memory: int | None = None
    on_batch: Callable[[int, int], None] | None = None
    on_token: Callable[[], None] | None = None

    def size(
        self, model: Kosmos2ForConditionalGeneration, length: int, at_once: int | None = None
    ) -> int:
        """Return how many items with `length` tokens each to take at a time.

        Of each, `at_once` tokens are read without a look at Cancel; all of them by default.
        """
        return self.batch_size or automatic_batch_size(model, length, self.free_memory, at_once)


DEFAULT_BATCHES = BatchOptions()


def automatic_batch_size(
    model: Kosmos2ForConditionalGeneration,
    length: int,
    free_memory: int | None,
    at_once: int | None = None,
) -> int:
    """Return how many pictures with `length` tokens each fit into `free_memory` bytes, at least 1.

    A picture costs what is estimated, or the share of it that was measured on this model. Without
    `free_memory` only the device decides, by the `at_once` tokens that are read in one go.
    """
    most = read_in_one_go(model, at_once or length)
    if free_memory is not None:
        cost = bytes_per_picture(model, length) * share_taken(model)
        most = min(most, int(free_memory * SHARE / cost))
    return max(1, most)


def read_in_one_go(model: Kosmos2ForConditionalGeneration, length: int) -> int:
    """Return how many pictures with `length` tokens a device can read while Cancel waits."""
    if model.device.type != "cpu":
        return MOST_AT_ONCE
    work = 2 * model.num_parameters() * length
    return min(MOST_AT_ONCE, max(1, int(CPU_WORK / work)))


def bytes_per_picture(model: Kosmos2ForConditionalGeneration, length: int) -> int:
    """Estimate from above what a picture with `length` tokens takes, beside the weights.

    Counted are the activations of one layer of each tower with its attention scores, the cache of
    keys and values (twice, for that of the picture is copied for each prompt) and the logits in
    float32. What is really taken, as a test measures it, is a quarter to a half of that: `cost`
    learns it from the first batch.
    """
    eye, mouth = model.config.vision_config, model.config.text_config
    patches = (eye.image_size // eye.patch_size) ** 2 + 1
    looking = patches * (8 * eye.hidden_size + 2 * eye.intermediate_size)
    looking += eye.num_attention_heads * patches**2
    reading = length * (8 * mouth.embed_dim + 2 * mouth.ffn_dim) + mouth.attention_heads * length**2
    cache = 2 * 2 * mouth.layers * mouth.embed_dim * length
    return (looking + reading + cache) * model.dtype.itemsize + 3 * 4 * mouth.vocab_size


def by_length(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers of rows of tokens, the shortest first: then batches pad little."""
    return sorted(range(len(rows)), key=lambda k: len(rows[k]))


def in_batches(
    total: int,
    size: int | Callable[[], int],
    work: Callable[[int, int], list[Result]],
    on_batch: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Return the results of `work(start, stop)` over all items, `size` at a time.

    A `size` that can be called is asked before each batch. When memory runs out the size is halved
    for good, and the same items are tried again. Raises UserError when it runs out for a single
    item.
    """
    results: list[Result] = []
    most = total
    while len(results) < total:
        start = len(results)
        now = min(size if isinstance(size, int) else size(), most, total - start)
        try:
            results += work(start, start + now)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if now == 1:
                raise UserError(
                    "There is not enough memory to look at a single picture: close other programs, "
                    "or load Kosmos-2 with the dtype fp16."
                ) from error
            most = max(1, now // 2)
            logger.warning("Memory ran out; going on with %d pictures at a time", most)
        else:
            if on_batch is not None:
                on_batch(len(results), total)
    return results


def _out_of_memory(error: RuntimeError) -> bool:
    """Recognise it on CUDA and XPU by its class, on a CPU and on MPS by PyTorch's words."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
