"""What a run will need, measured before its first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import psutil
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from ...shared.errors import UserError
from ...shared.peak_memory import watch_peak
from ..config import Config, TrainingConfig
from ..learner import Learner
from ..optim.weight_averaging import trainable
from ..optim.zero_optimizer import shares_state

PROBES = 2
GIGABYTE = 1e9

STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "adafactor": 0, "schedulefree": 8}
"""What an optimizer keeps for each trained parameter; it makes it at its first step."""

AVERAGE_BYTES = 4


GRADIENT_BYTES = 4

RECOMPUTED = 0.5
"""The share of what a step holds in passing that gradient checkpointing leaves, at most: in
Stable Diffusion's UNet it is less."""


@dataclass(frozen=True)
class Estimate:
    """Memory that training takes and memory that there is, in bytes, and seconds for a step.

    `passing` is the part of `needed` that a step holds from its forward to its backward pass, and
    `trained` the number of weights that are trained.
    """

    needed: int
    available: int
    seconds: float
    passing: int = 0
    trained: int = 0

    def __str__(self) -> str:
        gigabytes = f"{self.needed / GIGABYTE:.1f} of {self.available / GIGABYTE:.1f} GB"
        return f"about {gigabytes} and {self.seconds:.2g} s a step"


class Preflight(Callback):
    """Measures a step forwards and backwards, tells what the run needs, and stops one in time.

    What it measures with is thrown away: the run is the same as without.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def on_train_start(self, trainer: Trainer, module: Learner) -> None:
        """Measure. Raises UserError when the memory is too small."""
        estimate = measure(trainer, module)
        steps = module.config.steps - module.first_step
        left = timedelta(seconds=round(estimate.seconds * steps))
        self._tell(f"{estimate}, {left} in all")
        if estimate.needed > estimate.available:
            raise UserError(
                f"The training does not fit into memory ({estimate}): "
                f"{cheapest_change(module.config, estimate)}."
            )


def measure(trainer: Trainer, module: Learner) -> Estimate:
    """Run the parts of the first step, and add what the optimizer is going to keep."""
    config, device = module.config, module.device
    trained = sum(parameter.numel() for parameter in trainable(module).values())
    before, free, risen = _held(device), _free(device), watch_peak(device)
    seconds = 0.0
    for _ in range(PROBES):
        began = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.training_step(module.first_step * config.accumulation, 0)
        loss.backward()
        rise = risen() if risen else _held(device) - before
        seconds = time.perf_counter() - began
        module.zero_grad(set_to_none=True)
    module.losses.clear()
    state = STATE_BYTES[config.optimizer] / (config.processes if shares_state(config) else 1)
    kept = round((state + (AVERAGE_BYTES if config.ema else 0)) * trained)
    return Estimate(
        before + rise + (0 if module.resume_from else kept),
        before + free,
        seconds * config.accumulation,
        max(0, rise - GRADIENT_BYTES * trained),
        trained,
    )


def _held(device: torch.device) -> int:
    """Bytes in use: on a GPU by training, on a CPU by this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def cheapest_change(config: Config, estimate: Estimate | None = None) -> str:
    """Name the change that makes a run fit at the least price in quality and then in time.

    Without an estimate nobody knows what is lacking, and it is the first one.
    """
    measured = estimate or Estimate(0, 0, 0.0)
    lacking = measured.needed - measured.available
    named: list[str] = []
    together = 0.0
    for change in _changes(config, measured, lacking):
        if change.alone >= lacking:
            return change.advice
        named.append(change.advice)
        together += change.more
        if together >= lacking:
            return ", and ".join(named)
    return ", and ".join([*named, "choose a smaller model, or a computer with more memory"])


class _Change(NamedTuple):
    """What saves memory: so many bytes `alone`, and `more` on top of all that is cheaper."""

    advice: str
    alone: float
    more: float


def _changes(config: Config, measured: Estimate, lacking: int) -> Iterator[_Change]:
    """What a run could do with less, from the cheapest on."""
    passing = float(measured.passing)
    if not config.gradient_checkpointing:
        saved = (1 - RECOMPUTED) * passing
        advice = "switch gradient_checkpointing on in TrainingOptions; the result is the same"
        yield _Change(advice, saved, saved)
        passing -= saved
    size, parts = config.batch_size, config.accumulation
    while size > 1:
        size, parts = size // 2, parts * 2
        share = 1 - size / config.batch_size
        if size == 1 or share * measured.passing >= lacking:
            advice = f"set batch_size to {size} and accumulation to {parts}"
            advice = f"{advice}, which is the same for an even batch"
            yield _Change(advice, share * measured.passing, share * passing)
            break
    if not isinstance(config, TrainingConfig):
        return
    state = STATE_BYTES[config.optimizer]
    if config.method == "full" and config.optimizer == "adamw":
        saved = (state - STATE_BYTES["adamw8bit"]) * measured.trained
        yield _Change("set the optimizer to adafactor or adamw8bit", saved, saved)
        state = STATE_BYTES["adamw8bit"]
    if config.method == "full":
        saved = GRADIENT_BYTES * measured.trained
        yield _Change(
            "set method to lora",
            saved + STATE_BYTES[config.optimizer] * measured.trained,
            saved + state * measured.trained,
        )
    if config.train_text_encoder and config.method != "embedding":
        yield _Change("switch train_text_encoder off", 0.0, 0.0)
