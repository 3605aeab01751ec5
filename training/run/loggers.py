"""A run as curves in TensorBoard and in Weights & Biases, beside its own event stream."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from ...shared.errors import UserError
from ..config import Config
from .events import Event

SMOOTHING = 0.98


class MetricLogger(Protocol):
    """Where the figures of a run are drawn."""

    def losses(self, steps: Sequence[Event]) -> None:
        """Add steps, in order."""

    def preview(self, step: int, picture: torch.Tensor) -> None:
        """Add a picture [H,W,3], float 0..1."""

    def close(self) -> None:
        """Write what is not written yet."""


class _Smooth:
    """The mean of the losses so far, in which a loss counts 0.98 times the one after it."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def __call__(self, loss: float) -> float:
        self._sum = SMOOTHING * self._sum + loss
        self._weight = SMOOTHING * self._weight + 1
        return self._sum / self._weight


def _figures(step: Event, smooth: _Smooth) -> dict[str, float]:
    loss = float(step.loss or 0.0)
    return {"loss": loss, "loss_smoothed": smooth(loss), "learning_rate": float(step.rate or 0.0)}


class TensorBoard:
    """`tensorboard --logdir <folder>` shows it; what came after the step `start` is void."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)
        self._smooth = _Smooth()

    def losses(self, steps: Sequence[Event]) -> None:
        """Add steps, in order."""
        for step in steps:
            for name, value in _figures(step, self._smooth).items():
                self._writer.add_scalar(name, value, step.step, walltime=step.time)
        self._writer.flush()

    def preview(self, step: int, picture: torch.Tensor) -> None:
        """Add a picture [H,W,3], float 0..1."""
        self._writer.add_image("preview", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases in a run's `folder`, kept there unless WANDB_MODE says "online"."""

    def __init__(self, folder: Path, config: Config) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                "Logging to Weights & Biases needs the package wandb: install it into ComfyUI's "
                "Python, or switch wandb off."
            ) from error
        self._wandb = wandb
        self._run = wandb.init(
            project=config.task,
            name=folder.name,
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            config=asdict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        self._smooth = _Smooth()

    def losses(self, steps: Sequence[Event]) -> None:
        """Add steps, in order."""
        for step in steps:
            self._run.log(_figures(step, self._smooth), step=step.step)

    def preview(self, step: int, picture: torch.Tensor) -> None:
        """Add a picture [H,W,3], float 0..1."""
        self._run.log({"preview": self._wandb.Image(picture.numpy())}, step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._run.finish()
