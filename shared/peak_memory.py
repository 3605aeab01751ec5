"""Measure the peak memory of a piece of work."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch_peak(device: torch.device) -> Callable[[], int] | None:
    """Start measuring; the returned function tells by how many bytes the peak exceeds the start.

    Measures allocations on a GPU and the process's resident memory on a CPU. Returns None where the
    peak is not available (MPS, and a CPU without Linux's /proc).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = int(torch.cuda.memory_allocated(device))
        return lambda: int(torch.cuda.max_memory_allocated(device)) - allocated
    if device.type != "cpu":
        return None
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    resident = int(psutil.Process().memory_info().rss)
    return lambda: _peak_resident() - resident


def _peak_resident() -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    return int(match[1]) * 1024 if match else 0
