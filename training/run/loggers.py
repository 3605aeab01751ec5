"""TensorBoard and Weights & Biases logs of a run, in addition to its event stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import TypeAlias

import torch
from lightning.fabric.loggers import TensorBoardLogger
from lightning.pytorch.loggers import WandbLogger

from ...shared.packages import require_packages
from ..config import Config
from .events import Event
from .run_folder import RunFolder

MetricLogger: TypeAlias = TensorBoardLogger | WandbLogger


def make_loggers(run: RunFolder, config: Config, start: int) -> list[MetricLogger]:
    """Return the loggers of a run that starts at a step, or is resumed there.

    TensorBoard ignores what was logged after that step. Weights & Biases logs offline unless
    WANDB_MODE is set. Raises UserError when the package wandb is missing.
    """
    purge_step = start + 1 if start else None
    tensorboard = TensorBoardLogger(
        run.path, run.tensorboard.name, version="", purge_step=purge_step, flush_secs=1
    )
    return [tensorboard, _wandb_logger(run, config)] if config.wandb else [tensorboard]


def _wandb_logger(run: RunFolder, config: Config) -> WandbLogger:
    require_packages("Logging to Weights & Biases", "wandb>=0.18")
    logger = WandbLogger(
        project=config.task,
        name=run.path.name,
        id=hashlib.sha256(str(run.path).encode()).hexdigest()[:16],
        save_dir=run.path,
        config=asdict(config),
        mode=os.environ.get("WANDB_MODE", "offline"),
    )
    _ = logger.experiment  # starts the W&B run
    return logger


def log_steps(logger: MetricLogger, steps: Iterable[Event]) -> None:
    """Log the loss and learning rate of "step" events."""
    for event in steps:
        metrics = {"loss": event.loss or 0.0, "learning_rate": event.rate or 0.0}
        logger.log_metrics(metrics, event.step)


def log_preview(logger: MetricLogger, step: int, image: torch.Tensor) -> None:
    """Log a preview image [H,W,3], float 0..1."""
    if isinstance(logger, WandbLogger):
        logger.log_image("preview", [image.numpy()], step)
    else:
        logger.experiment.add_image("preview", image, step, dataformats="HWC")


def close_logger(logger: MetricLogger) -> None:
    """Write what is not written yet."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
    else:
        logger.finalize("success")
