"""Time several ways of doing the same work in turn, and measure the machine's own speed."""

from __future__ import annotations

import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import torch

log = logging.getLogger(__name__)

Work = TypeVar("Work")
Clock = Callable[[], float]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CPU_TIME = (False, "use processor time, on a machine that others use as well (one thread)")
"""The option `--cpu-time` of benchmarks, for `parse_arguments`."""


def wall_time() -> float:
    """Return seconds, after the GPU has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clock_for(cpu_time: bool) -> Clock:
    """Return the clock that the option `--cpu-time` selects."""
    return time.process_time if cpu_time else wall_time


def median_range(values: Sequence[float], digits: int = 2) -> str:
    """Format as `median (minimum to maximum)`."""
    parts = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return "{} ({} to {})".format(*parts)


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Divide the measurements of the same turns."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


class Turns(Generic[Work]):
    """Seconds and token counts of several functions, run in turn; the first is the reference."""

    def __init__(
        self,
        functions: Mapping[str, Callable[[Work], int]],
        work: Work,
        repeats: int,
        clock: Clock = wall_time,
    ) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in functions}
        self.tokens: dict[str, int] = {}
        for _ in range(repeats):
            for name, function in functions.items():
                start = clock()
                self.tokens[name] = function(work)
                self.seconds[name].append(clock() - start)
                log.debug("%s: %.2f s", name, self.seconds[name][-1])

    def table(self, images: Mapping[str, int]) -> str:
        """One line per function: seconds, images per second, and speed relative to the first."""
        first = next(iter(self.seconds))
        lines = []
        for name, seconds in self.seconds.items():
            share = images[name] / images[first]
            speedups = [share * ratio for ratio in ratios(self.seconds[first], seconds)]
            lines.append(
                f"{name:16} {images[name]} images in {median_range(seconds, 3)} s  "
                f"{images[name] / statistics.median(seconds):7.3f} images/s  "
                f"{self.tokens[name]:4} tokens  x{median_range(speedups)}"
            )
        return "\n".join(lines)


def environment(device: torch.device | str = "cpu") -> str:
    """Describe the machine and the versions in one line."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return (
        f"{name}, {torch.get_num_threads()} CPU threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def matmul_flops(
    dtype: torch.dtype, device: torch.device, clock: Clock = wall_time, side: int = 2048
) -> float:
    """Measure the operations per second of a product of two matrices of a side."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _best(lambda: a @ b, clock)


def read_bandwidth(device: torch.device, clock: Clock = wall_time) -> float:
    """Measure the bytes per second at which memory larger than any cache is read."""
    block = torch.ones(2**28, dtype=torch.uint8, device=device).view(torch.int64)
    return block.numel() * 8 / _best(block.sum, clock)


def copy_bandwidth(device: torch.device, clock: Clock = wall_time) -> float:
    """Measure the bytes per second that a copy of memory larger than any cache moves."""
    source = torch.ones(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), clock)


def _best(work: Callable[[], object], clock: Clock) -> float:
    seconds = []
    for _ in range(5):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)
