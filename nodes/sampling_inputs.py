"""What the nodes that sample images share: the last seed and the progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import host

if TYPE_CHECKING:
    from ..diffusion.sample.images import OnStep

LAST_SEED = 2**64 - 1


def sampling_progress() -> OnStep:
    """A callback that starts the node's progress bar when it first hears how much there is."""
    progress: host.Progress | None = None

    def on_step(done: int, total: int, preview: torch.Tensor) -> None:
        nonlocal progress
        progress = progress or host.Progress(total)
        progress.step(done, preview)

    return on_step
