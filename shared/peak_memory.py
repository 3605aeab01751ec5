"""What a batch really takes of the memory, measured while it runs and kept for its model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import psutil
import torch

LEAST = 0.1
"""No model takes less of its estimate: on a CPU a batch may find memory that others have left."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_taken: WeakKeyDictionary[torch.nn.Module, float] = WeakKeyDictionary()


def share_taken(model: torch.nn.Module) -> float:
    """Return which share of its estimated cost a picture has taken; 1 before it was measured."""
    return _taken.get(model, 1.0)


@contextmanager
def measure_peak(model: torch.nn.Module, device: torch.device, estimate: int) -> Iterator[None]:
    """Compare the memory that a batch takes at its peak with its `estimate` in bytes.

    The highest share ever taken is what counts.
    """
    risen = watch_peak(device)
    yield
    if risen is not None:
        share = max(LEAST, risen() / estimate)
        _taken[model] = max(share, _taken.get(model, 0.0))


def watch_peak(device: torch.device) -> Callable[[], int] | None:
    """Watch the memory in use; the function returned tells how far its peak has risen, in bytes.

    On a GPU allocations count, on a CPU the process's resident memory. None where the system does
    not tell its peak; Linux does.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = int(torch.cuda.memory_allocated(device))
        return lambda: int(torch.cuda.max_memory_allocated(device)) - before
    if device.type != "cpu":
        return None
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    held = int(psutil.Process().memory_info().rss)
    return lambda: _peak_of_process() - held


def _peak_of_process() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) * 1024 if found else 0
