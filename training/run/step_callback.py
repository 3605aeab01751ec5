"""What is done after each step: losses written down, checkpoints, preview pictures, stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from ...shared.atomic_files import atomic_write
from ...shared.errors import UserError
from ...shared.images import to_pil
from ..learner import Learner
from ..optim.weight_averaging import swap_weights
from ..optim.zero_optimizer import gather
from . import checkpoints
from .events import Event, append
from .loggers import MetricLogger
from .run_folder import RunFolder
from .stop_request import StopRequest

WRITE_SECONDS = 0.25


@dataclass(frozen=True)
class _Step:
    """A step that is done, its figures [] still on their device."""

    number: int
    loss: torch.Tensor
    gradient_norm: torch.Tensor | None
    time: float


class StepCallback(Callback):
    """Keeps the run folder up to date while a run goes on.

    Losses stay on their device until they are written, a few times a second, so that no step
    waits for another. They are written before each checkpoint, so the curve is never behind it.
    Of several processes only the first one writes. `done` is the number of steps that are done.
    """

    def __init__(self, run: RunFolder, stop: StopRequest, curves: Sequence[MetricLogger]) -> None:
        self._run = run
        self._stop = stop
        self._curves = curves
        self._steps: list[_Step] = []
        self._written = time.monotonic()
        self.done = 0

    def on_train_start(self, trainer: Trainer, module: Learner) -> None:
        """From here on, a request to stop waits for a checkpoint."""
        self._stop.defer()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and module.resume_from is not None:
            checkpoints.restore_scaler(module.resume_from, scaler)

    def on_train_batch_end(
        self, trainer: Trainer, module: Learner, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        """Write down a step that is done, and what is due after it."""
        done, parts = divmod(batch + 1, module.config.accumulation)
        if parts:
            return
        self.done = done
        config, strategy = module.config, trainer.strategy
        stopping = strategy.reduce_boolean_decision(self._stop.requested, all=False)
        loss = strategy.reduce(torch.stack(module.losses).mean(), reduce_op="mean")
        module.losses.clear()
        self._steps.append(_Step(done, loss, self._norm(trainer, module), time.time()))
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write_steps(trainer, module)
        if stopping or done == config.steps or done % config.checkpoint_every == 0:
            self._write_steps(trainer, module)
            self._save(trainer, module, done)
        if config.preview_every and done % config.preview_every == 0 and not stopping:
            self._paint(trainer, module, done)
        trainer.should_stop = stopping

    @staticmethod
    def _norm(trainer: Trainer, module: Learner) -> torch.Tensor | None:
        """The gradients' norm; None where a scaler passes over steps whose norm is infinite."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        return None if scaled else module.gradient_norm

    def _write_steps(self, trainer: Trainer, module: Learner) -> None:
        """Write what is not written yet.

        Raises UserError at the first step whose loss or gradient is not a number: it has
        spoilt the weights, and what the last checkpoint holds is well.
        """
        if not self._steps:
            return
        losses = torch.stack([step.loss for step in self._steps]).tolist()
        norms = [0.0 if s.gradient_norm is None else float(s.gradient_norm) for s in self._steps]
        good = [math.isfinite(a) and math.isfinite(b) for a, b in zip(losses, norms, strict=True)]
        whole = good.index(False) if False in good else len(good)
        if trainer.is_global_zero:
            events = [
                Event("step", step.number, loss, module.rate(step.number - 1), time=step.time)
                for step, loss in zip(self._steps[:whole], losses, strict=False)
            ]
            append(self._run.events, events)
            for curve in self._curves:
                curve.losses(events)
        if whole < len(good):
            raise UserError(
                f"The loss was no number any more after step {self._steps[whole].number - 1}: set "
                "a lower learning_rate."
            )
        self._steps = []
        self._written = time.monotonic()

    def _save(self, trainer: Trainer, module: Learner, done: int) -> None:
        optimizer = trainer.optimizers[0]
        gather(optimizer)
        if not trainer.is_global_zero:
            return
        checkpoints.save(
            self._run.checkpoints,
            done,
            module,
            optimizer,
            average=module.result_weights(optimizer),
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            keep=module.config.keep_checkpoints,
        )
        append(self._run.events, [Event("checkpoint", done)])

    def _paint(self, trainer: Trainer, module: Learner, done: int) -> None:
        """Show what was learned so far, as the result would."""
        if not trainer.is_global_zero:
            return
        with swap_weights(module, module.result_weights(trainer.optimizers[0])):
            strip = module.preview()
        path = self._run.previews / f"{done:08}.png"
        with atomic_write(path) as draft:
            to_pil(strip).save(draft, "PNG")
        file = path.relative_to(self._run.path).as_posix()
        append(self._run.events, [Event("preview", done, file=file)])
        for curve in self._curves:
            curve.preview(done, strip)

    def on_train_end(self, trainer: Trainer, module: Learner) -> None:
        """Close the curves."""
        for curve in self._curves:
            curve.close()
