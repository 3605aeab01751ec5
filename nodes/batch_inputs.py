"""How the nodes that write text cut their work into batches and show how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host

if TYPE_CHECKING:
    from ..shared.batching import BatchOptions


def batch_size_input(what: str) -> io.Int.Input:
    """The widget for how many of `what` go through the model at a time."""
    return io.Int.Input(
        "batch_size",
        default=0,
        min=0,
        max=256,
        tooltip=f"{what} at a time. 0: as many as the free memory suggests. When memory runs out, "
        "batches are halved and the work goes on.",
    )


def watched(total: int, batch_size: int) -> BatchOptions:
    """Return batch options that move the progress bar to `total` and raise after Cancel."""
    from ..shared.batching import BatchOptions

    progress = host.Progress(total)
    return BatchOptions(
        batch_size=batch_size,
        free_memory=host.free_memory(),
        on_batch=lambda done, _: progress.step(done),
        on_token=host.check_interrupted,
    )
