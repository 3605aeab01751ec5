"""What happens after each step: events, checkpoints, preview images, stopping."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image

from ...shared.atomic_files import atomic_write
from ...shared.errors import UserError
from ..learner import Learner
from ..optim.weight_averaging import swap_weights
from ..optim.zero_optimizer import consolidate_state
from . import checkpoints
from .events import Event, append_events
from .loggers import MetricLogger, close_logger, log_preview, log_steps
from .run_folder import RunFolder
from .stop_request import StopRequest

WRITE_SECONDS = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Step:
    """A completed step; `loss` and `gradient_norm` [] are still on their device."""

    number: int
    loss: torch.Tensor
    gradient_norm: torch.Tensor | None
    time: float

    def is_finite(self) -> bool:
        """Whether neither the loss nor the gradient norm is NaN or infinite."""
        values = (self.loss, self.gradient_norm)
        return all(value is None or math.isfinite(value) for value in values)


class StepCallback(Callback):
    """Writes events, logs, checkpoints and previews of a run into its folder.

    Losses stay on their device until they are written, every WRITE_SECONDS, so that steps do not
    wait for the GPU; they are written before each checkpoint. With several processes only the
    first one writes. `completed_steps` includes those of the checkpoint that the run resumed from.
    """

    def __init__(self, run: RunFolder, stop: StopRequest, loggers: Sequence[MetricLogger]) -> None:
        self._run = run
        self._stop = stop
        self._loggers = loggers
        self._unwritten: list[_Step] = []
        self._written_at = time.monotonic()
        self.completed_steps = 0

    def on_train_start(self, trainer: Trainer, module: Learner) -> None:
        """Defer stop requests to the end of a step, and restore the fp16 gradient scaler."""
        self._stop.defer()
        scaler = _scaler(trainer)
        if scaler is not None and module.resume_from is not None:
            checkpoints.restore_scaler(module.resume_from, scaler)

    def on_train_batch_end(
        self, trainer: Trainer, module: Learner, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        """After the last batch of a step, record the step and do what is due after it."""
        config, strategy = module.config, trainer.strategy
        step, remaining = divmod(batch + 1, config.accumulation)
        if remaining:
            return
        self.completed_steps = step
        stopping = strategy.reduce_boolean_decision(self._stop.requested, all=False)
        loss = strategy.reduce(torch.stack(module.losses).mean(), reduce_op="mean")
        module.losses.clear()
        # A gradient scaler skips steps whose gradient norm is infinite: they are no failure.
        norm = module.gradient_norm if _scaler(trainer) is None else None
        self._unwritten.append(_Step(step, loss, norm, time.time()))
        if time.monotonic() - self._written_at > WRITE_SECONDS:
            self._write_steps(trainer, module)
        if stopping or step == config.steps or step % config.checkpoint_every == 0:
            self._write_steps(trainer, module)
            self._save_checkpoint(trainer, module, step)
        if config.preview_every and step % config.preview_every == 0 and not stopping:
            self._save_preview(trainer, module, step)
        trainer.should_stop = stopping

    def _write_steps(self, trainer: Trainer, module: Learner) -> None:
        """Write the completed steps to the event stream and the loggers.

        Raises UserError at the first step whose loss or gradient norm is NaN or infinite: the
        weights are useless from that step on, and the newest checkpoint is from before it.
        """
        finite = [step.is_finite() for step in self._unwritten]
        valid = finite.index(False) if False in finite else len(finite)
        if trainer.is_global_zero:
            events = [
                Event("step", s.number, s.loss.item(), module.rate(s.number - 1), time=s.time)
                for s in self._unwritten[:valid]
            ]
            append_events(self._run.events, events)
            for logger in self._loggers:
                with _optional("Logging"):
                    log_steps(logger, events)
        if valid < len(finite):
            saved = self._run.steps_saved()
            kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint"
            raise UserError(
                f"Loss became NaN after step {self._unwritten[valid].number - 1}; {kept}. "
                "Lower the learning rate."
            )
        self._unwritten = []
        self._written_at = time.monotonic()

    def _save_checkpoint(self, trainer: Trainer, module: Learner, step: int) -> None:
        optimizer = trainer.optimizers[0]
        consolidate_state(optimizer)
        if not trainer.is_global_zero:
            return
        checkpoints.save(
            self._run.checkpoints,
            step,
            module,
            optimizer,
            average=module.result_weights(optimizer),
            scaler=_scaler(trainer),
            keep=module.config.keep_checkpoints,
        )
        append_events(self._run.events, [Event("checkpoint", step)])

    def _save_preview(self, trainer: Trainer, module: Learner, step: int) -> None:
        """Generate preview images with the weights that the result would have."""
        if not trainer.is_global_zero:
            return
        path = self._run.previews / f"{step:08}.png"
        with _optional(f"The preview of step {step}"):
            with swap_weights(module, module.result_weights(trainer.optimizers[0])):
                preview = module.preview()
            with atomic_write(path) as draft:
                Image.fromarray(preview.mul(255).round().byte().numpy()).save(draft, "PNG")
            file = path.relative_to(self._run.path).as_posix()
            append_events(self._run.events, [Event("preview", step, file=file)])
            for logger in self._loggers:
                log_preview(logger, step, preview)

    def on_train_end(self, trainer: Trainer, module: Learner) -> None:
        """Close the loggers."""
        for logger in self._loggers:
            with _optional("Logging"):
                close_logger(logger)


@contextmanager
def _optional(work: str) -> Iterator[None]:
    """Log what fails in a `with` block as a warning: without it, the run is the same."""
    try:
        yield
    except Exception as error:
        log.warning("%s failed, and the training goes on: %s", work, error)
        log.debug("%s failed.", work, exc_info=True)
    else:
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _scaler(trainer: Trainer) -> torch.amp.GradScaler | None:
    """The gradient scaler of fp16 training."""
    return getattr(trainer.precision_plugin, "scaler", None)
