"""Work through many pictures in the largest batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from ...shared.errors import UserError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Latent cells in the first batch that is tried. On a CPU one full-size picture keeps all cores
# busy, and small ones gain from company; a GPU takes what its memory holds, and halving finds it.
CPU_CELLS = 64 * 64
GPU_CELLS = 16 * CPU_CELLS


def first_batch(device: torch.device, cells: int) -> int:
    """Pictures of `cells` latent cells each to try at once."""
    return max(1, (CPU_CELLS if device.type == "cpu" else GPU_CELLS) // cells)


def in_batches(
    count: int, size: int, work: Callable[[slice], Result]
) -> Iterator[tuple[slice, Result]]:
    """Yield `work(slice)` for consecutive slices of `range(count)`, each at most `size` long.

    When memory runs out the size is halved, for the rest of the run, and the slice is begun
    again. Raises UserError when a single item does not fit.
    """
    start = 0
    while start < count:
        size = min(size, count - start)
        part = slice(start, start + size)
        result = _unless_out_of_memory(work, part)
        if result is not None:
            yield part, result
            start = part.stop
        elif size == 1:
            raise UserError(
                "There is not enough memory for one picture: choose a smaller width and height."
            )
        else:
            size //= 2
            log.warning("Out of memory: going on with %d pictures at a time.", size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _unless_out_of_memory(work: Callable[[slice], Result], part: slice) -> Result | None:
    # A function of its own, so that the failed attempt's tensors are gone before the next one.
    try:
        return work(part)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    """By its class on CUDA and XPU, and by PyTorch's words on a CPU and on MPS."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("DefaultCPUAllocator", "out of memory")
    )
