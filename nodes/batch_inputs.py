"""How the nodes that generate text split their work into batches and report progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host

if TYPE_CHECKING:
    from ..shared.batching import BatchOptions


def batch_size_input(items: str, *, optional: bool = False) -> io.Int.Input:
    """The widget for how many `items` go through the model at a time."""
    return io.Int.Input(
        "batch_size",
        default=0,
        min=0,
        max=256,
        optional=optional,
        tooltip=f"{items} per batch. 0: as many as fit in the free memory. A batch that runs out "
        "of memory is halved and tried again.",
    )


class SharedProgress:
    """One progress bar up to `total` for several calls of engine functions, one after another."""

    def __init__(self, total: int, batch_size: int) -> None:
        self._progress = host.Progress(total)
        self._batch_size = batch_size
        self._done = 0

    def batch_options(self) -> BatchOptions:
        """Return the options of the next call, which move the bar on and stop after Cancel."""
        from ..shared.batching import BatchOptions

        done_before = self._done

        def on_batch(done: int, _: int) -> None:
            self._done = done_before + done
            self._progress.step(self._done)

        return BatchOptions(self._batch_size, host.free_memory(), on_batch, host.check_interrupted)


def batch_options(total: int, batch_size: int) -> BatchOptions:
    """Return options that move the node's progress bar up to `total` and stop after Cancel."""
    return SharedProgress(total, batch_size).batch_options()
