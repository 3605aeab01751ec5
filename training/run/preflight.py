"""Measure the memory and time that a run needs, before its first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import psutil
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from ...shared.batching import unless_out_of_memory
from ...shared.errors import UserError
from ...shared.peak_memory import watch_peak
from ..config import Config, TrainingConfig
from ..learner import Learner
from ..optim.weight_averaging import trainable
from ..optim.zero_optimizer import shards_state

PASSES = 2
GIGABYTE = 1e9

STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "adafactor": 0, "schedulefree": 8}
"""Optimizer state per trainable parameter, allocated in the first step."""
EMA_BYTES = 4
GRADIENT_BYTES = 4

CHECKPOINTED_ACTIVATIONS = 0.5
"""Upper bound of the fraction of activation memory that gradient checkpointing needs; it is less
in Stable Diffusion's UNet."""


@dataclass(frozen=True)
class Estimate:
    """Memory that training needs and that is available, in bytes, and seconds per step.

    `activations` is the part of `needed` that activations take between the forward and backward
    pass, `trainable` the number of trainable parameters. `preview` is the memory that previews
    need; None when it is not available.
    """

    needed: int
    available: int
    seconds: float
    activations: int = 0
    trainable: int = 0
    preview: int | None = 0

    def __str__(self) -> str:
        gigabytes = f"{self.needed / GIGABYTE:.1f} of {self.available / GIGABYTE:.1f} GB"
        return f"about {gigabytes} and {self.seconds:.2g} s a step"


class Preflight(Callback):
    """Measures forward and backward passes of the first step, and reports the estimate.

    Their gradients are discarded, so that the run is the same as without.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def on_train_start(self, trainer: Trainer, module: Learner) -> None:
        """Measure. Raises UserError when there is not enough memory."""
        estimate = measure(trainer, module)
        steps = module.config.steps - module.first_step
        left = timedelta(seconds=round(estimate.seconds * steps))
        previews = ""
        if estimate.preview is None or estimate.preview > estimate.available:
            previews = "; previews need more memory and are skipped"
        self._report(f"{estimate}, {left} in total{previews}")
        if estimate.needed > estimate.available:
            raise UserError(
                f"Not enough memory for the training ({estimate}): "
                f"{suggest_change(module.config, estimate)}."
            )


def measure(trainer: Trainer, module: Learner) -> Estimate:
    """Run PASSES forward and backward passes, and add the memory of the optimizer's state.

    Previews are made between the steps, without activations and gradients of the training.
    """
    config, device = module.config, module.device
    parameters = sum(parameter.numel() for parameter in trainable(module).values())
    used, free, peak_increase = _used_memory(device), _free_memory(device), watch_peak(device)
    seconds = 0.0
    for _ in range(PASSES):
        start = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.training_step(module.first_step * config.accumulation, 0)
        loss.backward()
        increase = peak_increase() if peak_increase else _used_memory(device) - used
        seconds = time.perf_counter() - start
        module.zero_grad(set_to_none=True)
    module.losses.clear()
    state_bytes = STATE_BYTES[config.optimizer] / (config.processes if shards_state(config) else 1)
    state = round((state_bytes + (EMA_BYTES if config.ema else 0)) * parameters)
    preview: int | None = 0
    if config.preview_every:
        peak_increase = watch_peak(device)
        image = unless_out_of_memory(partial(module.preview, brief=True))
        increase_of_preview = peak_increase() if peak_increase else 0
        averaged = config.ema or config.optimizer == "schedulefree"
        copies = EMA_BYTES * parameters if averaged else 0
        preview = None if image is None else used + state + copies + increase_of_preview
    return Estimate(
        needed=used + increase + state,
        available=used + free,
        seconds=seconds * config.accumulation,
        activations=max(0, increase - GRADIENT_BYTES * parameters),
        trainable=parameters,
        preview=preview,
    )


def _used_memory(device: torch.device) -> int:
    """Bytes in use: on a GPU by torch, on a CPU by this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def suggest_change(config: Config, estimate: Estimate | None = None) -> str:
    """Name the changes that make a run fit into memory at the least cost in quality and time.

    The first single change that saves enough, or else as many of them together as it takes; without
    an estimate the first one.
    """
    estimate = estimate or Estimate(0, 0, 0.0)
    missing = estimate.needed - estimate.available
    combined: list[str] = []
    saved = 0.0
    for change in _changes(config, estimate, missing):
        if change.saved >= missing:
            return change.advice
        combined.append(change.advice)
        saved += change.saved_in_addition
        if saved >= missing:
            return ", and ".join(combined)
    return ", and ".join([*combined, "use a smaller model, or a computer with more memory"])


class _Change(NamedTuple):
    """A change of settings: the bytes it saves alone, and on top of all cheaper changes."""

    advice: str
    saved: float
    saved_in_addition: float


def _changes(config: Config, estimate: Estimate, missing: int) -> Iterator[_Change]:
    """The changes that are possible, from the cheapest in quality and time to the dearest."""
    activations = float(estimate.activations)
    if not config.gradient_checkpointing:
        saved = (1 - CHECKPOINTED_ACTIVATIONS) * activations
        advice = "switch gradient_checkpointing on in TrainingOptions; the result is the same"
        yield _Change(advice, saved, saved)
        activations -= saved
    size, accumulation = config.batch_size, config.accumulation
    while size > 1:
        size, accumulation = size // 2, accumulation * 2
        fraction = 1 - size / config.batch_size
        if size == 1 or fraction * estimate.activations >= missing:
            advice = f"set batch_size to {size} and accumulation to {accumulation}"
            advice = f"{advice}, which is the same for an even batch"
            yield _Change(advice, fraction * estimate.activations, fraction * activations)
            break
    if not isinstance(config, TrainingConfig):
        return
    state = STATE_BYTES[config.optimizer]
    if config.method == "full" and config.optimizer == "adamw":
        saved = (state - STATE_BYTES["adamw8bit"]) * estimate.trainable
        yield _Change("set the optimizer to adafactor or adamw8bit", saved, saved)
        state = STATE_BYTES["adamw8bit"]
    if config.method == "full":
        saved = GRADIENT_BYTES * estimate.trainable
        yield _Change(
            "set method to lora",
            saved + STATE_BYTES[config.optimizer] * estimate.trainable,
            saved + state * estimate.trainable,
        )
    if config.train_text_encoder and config.method != "embedding":
        yield _Change("switch train_text_encoder off", 0.0, 0.0)
