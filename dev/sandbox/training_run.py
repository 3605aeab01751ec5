"""One training run of a sandbox model: as many steps as fit into its minutes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .ema import Average
from .training_record import record
from .training_state import load_state, save_state

KEEP_SECONDS = 240
LOG_STEPS = 100
WARM_STEPS = 200
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How long a run takes, and what its record in git says of it."""

    minutes: float
    batch: int
    seed: int


def cosine(spent: float) -> float:
    """Share of the peak rate after ``spent`` (0..1) of the time: half a cosine, down to 0.02."""
    return 0.02 + 0.98 * (1 + math.cos(math.pi * spent)) / 2


class Run:
    """Steps, learning rate, average, log and safekeeping of one model's training.

    ``whole`` is all that learns; ``model`` the part of it that is averaged and written to git by
    ``write``, which is called while the model holds its averaged weights. Each of the optimizer's
    groups may have a "share" of ``rate``. The run goes on from the state kept outside git.
    """

    def __init__(
        self,
        name: str,
        budget: Budget,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        write: Callable[[], None],
        *,
        rate: float,
        whole: nn.Module | None = None,
        fall: Callable[[float], float] = cosine,
        decay: float = 0.999,
    ) -> None:
        self.name, self.budget, self.write, self.rate, self.fall = name, budget, write, rate, fall
        self.model, self.whole, self.optimizer = model, whole or model, optimizer
        self.average = Average(model, decay)
        self.step = load_state(name, self.whole, optimizer, self.average)
        self.losses: list[float] = []
        count = sum(p.numel() for p in model.parameters())
        log.info("%s: %.2f M parameters, from step %d", name, count / 1e6, self.step)

    def steps(self) -> Iterator[int]:
        """Number of each step, until the minutes are over; then what was learned is kept."""
        first = self.step
        began = saved = time.monotonic()
        while (spent := (time.monotonic() - began) / (60 * self.budget.minutes)) < 1:
            warm = min(1.0, (self.step + 1) / WARM_STEPS)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * group.get("share", 1.0) * warm * self.fall(spent)
            yield self.step
            self.step += 1
            if self.step % LOG_STEPS == 0:
                loss = np.mean(self.losses[-LOG_STEPS:])
                log.info("step %d  loss %.4f  %.1f %%", self.step, loss, 100 * spent)
            if time.monotonic() - saved > KEEP_SECONDS:
                self._keep()
                saved = time.monotonic()
        self._keep()
        budget = self.budget
        record(self.name, self.step - first, budget.batch, budget.minutes, budget.seed)

    def learn(self, loss: torch.Tensor) -> None:
        """Take one step down the gradient of ``loss``, its norm clipped to 1."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        self.optimizer.step()
        self.average.update(self.model)
        self.losses.append(loss.item())

    def _keep(self) -> None:
        save_state(self.name, self.step, self.whole, self.optimizer, self.average)
        self.average.swap(self.model)
        self.write()
        self.average.swap(self.model)
