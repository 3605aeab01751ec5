"""What every run has in common, whatever it learns: its optimizer, its rate and its averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule

from .config import Config
from .optim.optimizers import Group, make_optimizer, rate_schedule
from .optim.weight_averaging import WeightAverage, Weights, schedule_free_weights
from .optim.zero_optimizer import groups_of
from .run import checkpoints

if TYPE_CHECKING:
    from .run.run_folder import RunFolder


class Learner(LightningModule, ABC):
    """A run as a LightningModule, without what is learned.

    `resume_from` is the checkpoint to go on from, and `first_step` the step that it holds.
    `losses` gathers the loss of each part of a step, until who watches takes them out. A subclass
    sets `peak_rate`, the highest learning rate, and in `training_step` sets `step`.
    """

    peak_rate: float
    step: int

    def __init__(self, config: Config, resume_from: Path | None) -> None:
        super().__init__()
        self.config: Config = config
        self._rate_at = rate_schedule(config)
        self.resume_from = resume_from
        self.first_step = checkpoints.step_of(resume_from)
        self.average: WeightAverage | None = None
        self.losses: list[torch.Tensor] = []
        self.gradient_norm: torch.Tensor | None = None

    @abstractmethod
    def parameter_groups(self) -> list[Group]:
        """Return what is trained, each group with its peak rate."""

    @abstractmethod
    def preview(self) -> torch.Tensor:
        """Show what was learned so far, [H,W,3], float 0..1."""

    @abstractmethod
    def write_result(self, run: RunFolder) -> None:
        """Write what was learned into the run folder, and mark the run as finished."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer, in the state of the checkpoint if there is one."""
        optimizer = make_optimizer(self.config, self.parameter_groups())
        held: Weights = {}
        if self.resume_from is not None:
            held = checkpoints.restore(self.resume_from, self, optimizer)
        if self.config.optimizer == "schedulefree":
            optimizer.train()  # type: ignore[attr-defined]
        if self.config.ema:
            self.average = WeightAverage(self, self.config.ema, self.first_step, held)
        return optimizer

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.peak_rate * self._rate_at(step)

    def slots(self, index: int) -> range:
        """Begin a part of a step, and return this process's slots of the global batch.

        `index` is step * accumulation + part.
        """
        self.step, part = divmod(index, self.config.accumulation)
        size = self.config.batch_size
        return range(part * size, (part + 1) * size)[self.global_rank :: self.trainer.world_size]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients' norm, and set the step's learning rate."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(
            parameters, self.config.clip_norm or float("inf")
        )
        for group in groups_of(optimizer):
            group["lr"] = group["initial_lr"] * self._rate_at(self.step)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Make the step, and take it into the average."""
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            self.average.step()

    def result_weights(self, optimizer: torch.optim.Optimizer) -> Weights:
        """Return the weights by name that the result has in place of those that are trained."""
        if self.average is not None:
            return self.average.weights()
        if self.config.optimizer == "schedulefree":
            return schedule_free_weights(self, optimizer)
        return {}


def group(parameters: list[torch.nn.Parameter], rate: float) -> Group:
    """Return parameters as a group with a peak rate."""
    return {"params": parameters, "lr": rate, "initial_lr": rate}
