"""Train a sandbox model for some minutes: learning rate, EMA, logging and resumable state."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from torch import nn

from ...as_package import ROOT
from ...shared.atomic_files import atomic_write
from ..command_line import parse_arguments
from .optimizer import MuonAdamW
from .training_record import add_to_record

STATES = ROOT / ".cache" / "sandbox"
"""States to resume from, outside git."""
SAVE_SECONDS = 240
LOG_STEPS = 100
WARM_UP_STEPS = 200
log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=ModelMixin)


@dataclass(frozen=True)
class Budget:
    """Length of a run, batch size and seed, which are recorded in git."""

    minutes: float
    batch: int
    seed: int


def parse_training_arguments(description: str | None, **options: Any) -> Any:
    """Parse the options of a training command, and set the number of threads."""
    parsed = parse_arguments(description, seed=0, threads=torch.get_num_threads(), **options)
    torch.set_num_threads(parsed.threads)
    return parsed


def copy_without_path(model: Model) -> Model:
    """A copy of a diffusers model whose configuration lacks the path that it was loaded from."""
    config = {key: value for key, value in model.config.items() if key != "_name_or_path"}
    copied: Model = type(model).from_config(config)
    copied.load_state_dict(model.state_dict())
    return copied


def cosine_schedule(progress: float) -> float:
    """Learning rate factor at a progress of 0..1: half a cosine from 1 to 0.02."""
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2


class Run:
    """One training run, resumed from the state of the last one.

    trained: everything that is trained; `model`, the part that is averaged (EMA) and written by
    `write`, which is called while the model has its averaged weights. Each of the optimizer's
    parameter groups may have a "share" of `learning_rate`, which follows `schedule` after a
    warm-up.
    """

    def __init__(
        self,
        name: str,
        budget: Budget,
        model: nn.Module,
        optimizer: MuonAdamW | torch.optim.Optimizer,
        write: Callable[[], None],
        *,
        learning_rate: float,
        trained: nn.Module | None = None,
        schedule: Callable[[float], float] = cosine_schedule,
        decay: float = 0.999,
    ) -> None:
        self.name, self.budget, self.write = name, budget, write
        self.learning_rate, self.schedule = learning_rate, schedule
        self.model, self.trained, self.optimizer = model, trained or model, optimizer
        self.ema = EMAModel(model.parameters(), decay)
        self.state_file = STATES / f"{name}.ema.pt"
        self.step = 0
        if self.state_file.exists():
            device = next(model.parameters()).device
            state = torch.load(self.state_file, weights_only=True, map_location=device)
            self.step = state["step"]
            for key, part in self._parts().items():
                part.load_state_dict(state[key])
        self.losses: list[float] = []
        count = sum(p.numel() for p in model.parameters())
        log.info("%s: %.2f M parameters, from step %d", name, count / 1e6, self.step)

    def _parts(self) -> dict[str, Any]:
        return {"model": self.trained, "optimizer": self.optimizer, "ema": self.ema}

    def steps(self) -> Iterator[int]:
        """Yield the number of each step until the minutes are over; then save and record."""
        first = self.step
        start = saved = time.monotonic()
        while (progress := (time.monotonic() - start) / (60 * self.budget.minutes)) < 1:
            warm_up = min(1.0, (self.step + 1) / WARM_UP_STEPS)
            for group in self.optimizer.param_groups:
                share = group.get("share", 1.0)
                group["lr"] = self.learning_rate * share * warm_up * self.schedule(progress)
            yield self.step
            self.step += 1
            if self.step % LOG_STEPS == 0:
                loss = np.mean(self.losses[-LOG_STEPS:])
                log.info("step %d  loss %.4f  %.1f %%", self.step, loss, 100 * progress)
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()
        budget = self.budget
        add_to_record(self.name, self.step - first, budget.batch, budget.minutes, budget.seed)

    def optimize(self, loss: torch.Tensor) -> None:
        """Take one optimizer step, with gradients clipped to a norm of 1."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.step()
        self.ema.step(self.model.parameters())
        self.losses.append(loss.item())

    def _save(self) -> None:
        parts = {key: part.state_dict() for key, part in self._parts().items()}
        with atomic_write(self.state_file) as draft:
            torch.save({"step": self.step, **parts}, draft)
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        self.write()
        self.ema.restore(self.model.parameters())
