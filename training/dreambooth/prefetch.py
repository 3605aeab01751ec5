"""Compute the batches of coming steps in a second thread, with the prior teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from ..config import SMALL_MODEL

Batch = TypeVar("Batch")

COPY_MEMORY = 2
"""Free memory of another GPU, as a multiple of the teacher's weights, from which it is used."""


class Prefetcher(Generic[Batch]):
    """Computes `compute(index)` for the next index in a second thread while the last one is used.

    It ends before the index `end`. What `compute` raises, `batch` raises. The thread uses `threads`
    CPU threads, and ends with the process or when the prefetcher is no longer referenced.
    """

    def __init__(self, compute: Callable[[int], Batch], end: int, threads: int) -> None:
        self._compute, self._end = compute, end
        self._executor = ThreadPoolExecutor(
            1, "prefetch", initializer=torch.set_num_threads, initargs=(threads,)
        )
        self._futures: dict[int, Future[Batch]] = {}

    def batch(self, index: int) -> Batch:
        """Return the batch of an index, and begin the next one."""
        for k in range(index, min(index + 2, self._end)):
            if k not in self._futures:
                self._futures[k] = self._executor.submit(self._compute, k)
        self._futures = {k: future for k, future in self._futures.items() if k >= index}
        return self._futures[index].result()

    def close(self) -> None:
        """End the thread; wait for the batch that it computes."""
        self._executor.shutdown(cancel_futures=True)


def spare_device(device: torch.device, gpus_in_use: int, parameters: int) -> torch.device | None:
    """Return where a teacher of a number of `parameters` can compute while `device` trains.

    On the CPU that is the CPU, if it has two threads and the model is small: a large model uses all
    threads well. On a GPU it is another one of the same kind, with free memory for a copy; of
    several processes each takes one after those `gpus_in_use`. None when there is no such device.
    """
    if device.type == "cpu":
        return device if torch.get_num_threads() > 1 and parameters < SMALL_MODEL else None
    if device.type != "cuda":
        return None
    index = (device.index or 0) + gpus_in_use
    if index >= torch.cuda.device_count():
        return None
    if torch.cuda.get_device_name(index) != torch.cuda.get_device_name(device):
        return None  # its kernels may round differently
    needed = COPY_MEMORY * parameters * torch.float32.itemsize
    return torch.device("cuda", index) if torch.cuda.mem_get_info(index)[0] > needed else None


def split_threads(total: int) -> tuple[int, int]:
    """Divide 2 or more CPU threads among the trained model and its teacher.

    A step of the trained model, with its backward pass, takes five times as long as the teacher's.
    """
    teacher = max(1, total // 4)
    return total - teacher, teacher
