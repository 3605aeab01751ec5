"""What the nodes that sample images share: steps, CFG scale and the progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host

if TYPE_CHECKING:
    from ..diffusion.sample.sample_images import OnStep


def sampling_steps_input(default: int) -> io.Int.Input:
    """The widget for the number of sampling steps."""
    return io.Int.Input(
        "steps", default=default, min=1, max=1000, tooltip="Sampling steps per image."
    )


def cfg_scale_input(default: float, *, maximum: float = 50.0) -> io.Float.Input:
    """The widget for the scale of classifier-free guidance."""
    return io.Float.Input(
        "guidance",
        default=default,
        min=1.0,
        max=maximum,
        step=0.1,
        tooltip="CFG scale: higher values follow the prompt more closely, with less variety; 1 = "
        "no guidance, in half the time.",
    )


def sampling_progress() -> OnStep:
    """Return a callback that shows progress and previews; the first call sets the total."""
    progress: host.Progress | None = None

    def on_step(done: int, total: int, preview: torch.Tensor) -> None:
        nonlocal progress
        progress = progress or host.Progress(total)
        progress.step(done, preview)

    return on_step
