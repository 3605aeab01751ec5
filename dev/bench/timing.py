"""Turn by turn timing, with spread, and how fast the machine itself is."""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch

log = logging.getLogger(__name__)

Work = TypeVar("Work")


Clock = Callable[[], float]


def wall() -> float:
    """Return seconds, when a GPU has done all that it was told to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Let the command line choose between `wall` and the processor's time."""
    parser.add_argument(
        "--cpu-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=wall,
        help="count the processor's time, on a machine that others use as well (one thread)",
    )


class Turns(Generic[Work]):
    """Times several ways of doing the same work, each once a turn; the first is the yardstick."""

    def __init__(
        self,
        ways: Mapping[str, Callable[[Work], int]],
        work: Work,
        repeats: int,
        clock: Clock = wall,
    ) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in ways}
        self.tokens: dict[str, int] = {}
        for _ in range(repeats):
            for name, way in ways.items():
                began = clock()
                self.tokens[name] = way(work)
                self.seconds[name].append(clock() - began)
                log.debug("%s: %.2f s", name, self.seconds[name][-1])

    def table(self, pictures: Mapping[str, int]) -> str:
        """A line for each way: median seconds and their range, pictures a second, and ratios."""
        first = next(iter(self.seconds))
        lines = []
        for name, seconds in self.seconds.items():
            middle = statistics.median(seconds)
            share = pictures[name] / pictures[first]
            ratios = [share * a / b for a, b in zip(self.seconds[first], seconds, strict=True)]
            lines.append(
                f"{name:16} {pictures[name]} pictures in {middle:8.3f} s ({min(seconds):.3f} to "
                f"{max(seconds):.3f})  {pictures[name] / middle:7.3f} pictures/s  "
                f"{self.tokens[name]:4} tokens  "
                f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        return "\n".join(lines)


def environment(device: torch.device) -> str:
    """Where it was measured, in a line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return (
        f"{name}, {torch.get_num_threads()} CPU threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def flops(dtype: torch.dtype, device: torch.device, clock: Clock = wall) -> float:
    """Measure the operations per second of a product of two large matrices."""
    side = 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _best(lambda: a @ b, clock)


def bandwidth(device: torch.device, clock: Clock = wall) -> float:
    """Measure the bytes per second at which memory that fits into no cache is read."""
    block = torch.ones(2**28, dtype=torch.uint8, device=device).view(torch.int64)
    return block.numel() * 8 / _best(block.sum, clock)


def _best(work: Callable[[], object], clock: Clock, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        began = clock()
        work()
        seconds.append(clock() - began)
    return min(seconds)
