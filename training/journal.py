"""What is done after each step: losses written down, checkpoints, preview pictures, stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image

from ..diffusion.model import Diffusion
from ..diffusion.sample import sample
from ..errors import MendableError
from . import checkpoint
from .atomic import replacing
from .events import Event, append
from .folder import RunFolder
from .module import DreamBooth
from .stop import StopRequest

WRITE_SECONDS = 0.25
PREVIEW_STEPS = 20
PREVIEW_GUIDANCE = 4.0


@dataclass(frozen=True)
class _Loss:
    step: int
    value: torch.Tensor
    time: float


class Journal(Callback):
    """Keeps the run folder up to date while a run goes on.

    Losses stay on their device until they are written, a few times a second, so that no step
    waits for another. They are written before each checkpoint, so the curve is never behind it.
    """

    def __init__(self, run: RunFolder, diffusion: Diffusion, stop: StopRequest) -> None:
        self._run = run
        self._diffusion = diffusion
        self._stop = stop
        self._losses: list[_Loss] = []
        self._written = time.monotonic()

    def on_train_start(self, trainer: Trainer, module: DreamBooth) -> None:
        """From here on, a request to stop waits for a checkpoint."""
        self._stop.defer()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: DreamBooth,
        outputs: Mapping[str, torch.Tensor],
        batch: int,
        batch_idx: int,
    ) -> None:
        """Write down a step that is done, and what is due after it."""
        config, done = module.config, batch + 1
        stopping = self._stop.requested
        self._losses.append(_Loss(done, outputs["loss"], time.time()))
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write_losses(module)
        if stopping or done == config.steps or done % config.checkpoint_every == 0:
            self._write_losses(module)
            checkpoint.save(self._run.checkpoints, done, module, trainer.optimizers[0])
            append(self._run.events, [Event("checkpoint", done)])
        if config.preview_every and done % config.preview_every == 0 and not stopping:
            self._paint(module, done)
        trainer.should_stop = stopping

    def _write_losses(self, module: DreamBooth) -> None:
        """Append the losses that are not written yet.

        Raises MendableError when one is not a number: what came before the last checkpoint is well.
        """
        if not self._losses:
            return
        values = torch.stack([loss.value for loss in self._losses]).tolist()
        events = [
            Event("step", loss.step, value, module.rate(loss.step - 1), time=loss.time)
            for loss, value in zip(self._losses, values, strict=True)
            if math.isfinite(value)
        ]
        append(self._run.events, events)
        if len(events) < len(values):
            raise MendableError(
                f"The loss was no number any more after step {self._losses[len(events)].step - 1}: "
                "set a lower learning_rate."
            )
        self._losses = []
        self._written = time.monotonic()

    def _paint(self, module: DreamBooth, done: int) -> None:
        self._diffusion.vae.to(module.device)
        picture = sample(
            self._diffusion,
            [module.config.shown_prompt],
            steps=PREVIEW_STEPS,
            guidance=PREVIEW_GUIDANCE,
            seed=module.config.seed,
            width=module.config.resolution,
            height=module.config.resolution,
        )[0]
        self._diffusion.vae.to("cpu")
        path = self._run.previews / f"{done:08}.png"
        with replacing(path) as draft:
            Image.fromarray(picture.mul(255).round().byte().numpy()).save(draft, "PNG")
        file = path.relative_to(self._run.path).as_posix()
        append(self._run.events, [Event("preview", done, file=file)])
