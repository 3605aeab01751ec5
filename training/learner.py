"""The LightningModule of all kinds of runs: optimizer, learning rate, weight averaging."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule

from .config import Config
from .optim.optimizers import ParamGroup, lr_schedule, make_optimizer
from .optim.weight_averaging import WeightAverage, Weights, schedule_free_weights
from .optim.zero_optimizer import param_groups
from .run import checkpoints

if TYPE_CHECKING:
    from .run.run_folder import RunFolder


class Learner(LightningModule, ABC):
    """The base class of what `train` trains.

    `resume_from` is the checkpoint to resume, and `first_step` its step. `losses` has the loss of
    each batch of the present step; StepCallback clears it. A subclass sets `peak_rate`, the peak
    learning rate, and sets `step` in `training_step`.
    """

    peak_rate: float
    step: int

    def __init__(self, config: Config, resume_from: Path | None) -> None:
        super().__init__()
        self.config: Config = config
        self._rate_fraction = lr_schedule(config)
        self.resume_from = resume_from
        self.first_step = checkpoints.step_of(resume_from)
        self.average: WeightAverage | None = None
        self.losses: list[torch.Tensor] = []
        self.gradient_norm: torch.Tensor | None = None

    @abstractmethod
    def parameter_groups(self) -> list[ParamGroup]:
        """Return the trainable parameters, each group with its peak learning rate."""

    @abstractmethod
    def preview(self, *, brief: bool = False) -> torch.Tensor:
        """Return a preview image of the present state, [H,W,3], float 0..1.

        `brief`: in few steps, in which it takes as much memory.
        """

    @abstractmethod
    def write_result(self, run: RunFolder) -> None:
        """Write the result into the run folder, and mark the run as finished."""

    def frozen_blocks(self) -> list[torch.nn.Module]:
        """Return the blocks whose frozen weights can be quantized or offloaded, in order."""
        return []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer, with the state of the checkpoint if the run is resumed."""
        optimizer = make_optimizer(self.config, self.parameter_groups())
        average: Weights = {}
        if self.resume_from is not None:
            average = checkpoints.restore(self.resume_from, self, optimizer)
        if self.config.optimizer == "schedulefree":
            optimizer.train()  # type: ignore[attr-defined]
        if self.config.ema:
            self.average = WeightAverage(self, self.config.ema, self.first_step, average)
        return optimizer

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.peak_rate * self._rate_fraction(step)

    def slots(self, index: int) -> range:
        """Return this process's slots of a batch among those of all batches of its step.

        `index` is step * accumulation + batch.
        """
        size, batch = self.config.batch_size, index % self.config.accumulation
        return range(batch * size, (batch + 1) * size)[self.global_rank :: self.trainer.world_size]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient norm, and set the step's learning rate."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(
            parameters, self.config.clip_norm or float("inf")
        )
        for group in param_groups(optimizer):
            group["lr"] = group["initial_lr"] * self._rate_fraction(self.step)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Update the weights and their average."""
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            self.average.step()

    def result_weights(self, optimizer: torch.optim.Optimizer) -> Weights:
        """Return the averaged weights by name, which the result has; {} without averaging."""
        if self.average is not None:
            return self.average.weights()
        if self.config.optimizer == "schedulefree":
            return schedule_free_weights(self, optimizer)
        return {}


def param_group(parameters: list[torch.nn.Parameter], rate: float) -> ParamGroup:
    """Return a parameter group of an optimizer with its peak learning rate."""
    return {"params": parameters, "lr": rate, "initial_lr": rate}
