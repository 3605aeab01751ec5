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


def batch_options(total: int, batch_size: int) -> BatchOptions:
    """Return options that move the node's progress bar up to `total` and stop after Cancel."""
    from ..shared.batching import BatchOptions

    progress = host.Progress(total)
    return BatchOptions(
        batch_size=batch_size,
        free_memory=host.free_memory(),
        on_batch=lambda done, _: progress.step(done),
        on_token=host.check_interrupted,
    )
