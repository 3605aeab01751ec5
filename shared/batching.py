"""Process items in batches that fit into memory."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from .errors import UserError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


CLOSE_PROGRAMS = "close other programs, or load the model with dtype fp16"
SINGLE_ITEM = "a single item"


class LowMemoryError(UserError):
    """Memory does not suffice; the message names the task and the remedy."""

    def __init__(self, remedy: str, task: str = SINGLE_ITEM) -> None:
        super().__init__(f"There is not enough memory for {task}: {remedy}.")


@contextmanager
def memory_remedy(remedy: str, task: str = SINGLE_ITEM) -> Iterator[None]:
    """Raise any lack of memory in a `with` block or a decorated function as a LowMemoryError.

    A LowMemoryError is replaced too: who calls knows better what can be changed.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, LowMemoryError) or is_out_of_memory(error)):
            raise
        raise LowMemoryError(remedy, task) from error


@dataclass(frozen=True)
class BatchOptions:
    """How items are grouped into batches, and the callbacks.

    `batch_size` 0 chooses the largest batch that fits into `free_memory` (bytes). `on_batch` is
    called as on_batch(done, total) after each batch, counted in items, and `on_token` after each
    generated token. An exception that either raises ends the work.
    """

    batch_size: int = 0
    free_memory: int | None = None
    on_batch: Callable[[int, int], None] | None = None
    on_token: Callable[[], None] | None = None


DEFAULT_BATCHES = BatchOptions()


def in_batches(
    total: int,
    size: int | Callable[[], int],
    work: Callable[[slice], Iterable[Result]],
    on_batch: Callable[[int, int], None] | None = None,
    remedy: str = CLOSE_PROGRAMS,
) -> Iterator[Result]:
    """Yield the results of `work(slice)` over consecutive slices of `range(total)`.

    Each slice is at most `size` long; a callable `size` is called before each batch. When memory
    runs out the size is halved, for the rest of the run, and the same items are tried again.
    `on_batch` is as in `BatchOptions`. Raises LowMemoryError, which names the `remedy`, when a
    single item does not fit.
    """
    done, limit = 0, total
    while done < total:
        count = min(size if isinstance(size, int) else size(), limit, total - done)
        results = unless_out_of_memory(partial(work, slice(done, done + count)))
        if results is not None:
            yield from results
            done += count
            if on_batch is not None:
                on_batch(done, total)
        elif count == 1:
            raise LowMemoryError(remedy)
        else:
            limit = count // 2
            logger.warning("Out of memory: continuing with batches of %d", limit)
            free_cached_memory()


def unless_out_of_memory(work: Callable[[], Result]) -> Result | None:
    """Return `work()`, or None when memory runs out; its tensors are freed then."""
    try:
        with memory_remedy(CLOSE_PROGRAMS):
            return work()
    except LowMemoryError:
        return None


def free_cached_memory() -> None:
    """Give the GPU memory that torch caches back to the driver."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


OUT_OF_MEMORY = ("out of memory", "defaultcpuallocator", "alloc_failed", "allocate memory")
"""Texts of errors that have no class of their own, in lower case."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is a lack of memory without a remedy."""
    while error is not None and not isinstance(error, LowMemoryError):
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        text = "" if isinstance(error, UserError) else str(error).lower()
        if any(one in text for one in OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False
