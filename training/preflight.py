"""What a run will need, measured before its first step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from ..errors import MendableError
from .averaging import trainable
from .config import Config, TrainingConfig
from .learner import Learner

PROBES = 2
GIGABYTE = 1e9

STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "adafactor": 0, "schedulefree": 8}
"""What an optimizer keeps for each trained parameter; it makes it at its first step."""

AVERAGE_BYTES = 4


@dataclass(frozen=True)
class Estimate:
    """Memory that training takes and memory that there is, in bytes, and seconds for a step."""

    needed: int
    available: int
    seconds: float

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
        """Measure. Raises MendableError when the memory is too small."""
        estimate = measure(trainer, module)
        steps = module.config.steps - module.first_step
        left = timedelta(seconds=round(estimate.seconds * steps))
        self._tell(f"{estimate}, {left} in all")
        if estimate.needed > estimate.available:
            raise too_little_memory(module.config, str(estimate))


def measure(trainer: Trainer, module: Learner) -> Estimate:
    """Run the parts of the first step, and add what the optimizer is going to keep."""
    parameters = trainable(module).values()
    device = module.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = 0.0
    for _ in range(PROBES):
        began = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.training_step(module.first_step * module.config.accumulation, 0)
        loss.backward()
        held = _held(device)
        seconds = time.perf_counter() - began
        module.zero_grad(set_to_none=True)
    module.losses.clear()
    config = module.config
    each = STATE_BYTES[config.optimizer] + (AVERAGE_BYTES if config.ema else 0)
    kept = 0 if module.resume_from else each * sum(p.numel() for p in parameters)
    return Estimate(held + kept, held + _free(device), seconds * config.accumulation)


def _held(device: torch.device) -> int:
    """Bytes in use at most: on a GPU by training, on a CPU by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def too_little_memory(config: Config, needs: str) -> MendableError:
    """Say that memory is too small, and which change would cost least."""
    return MendableError(
        f"The training does not fit into memory ({needs}): {cheapest_change(config)}."
    )


def cheapest_change(config: Config) -> str:
    """Name the change that saves memory at the least price in quality and then in time."""
    if not config.gradient_checkpointing:
        return "switch gradient_checkpointing on in TrainingOptions; the result is the same"
    if config.batch_size > 1:
        size, parts = config.batch_size // 2, config.accumulation * 2
        return (
            f"set batch_size to {size} and accumulation to {parts}, which is the same for an even "
            "batch"
        )
    if isinstance(config, TrainingConfig):
        if config.method == "full" and config.optimizer == "adamw":
            return "set the optimizer to adafactor or adamw8bit"
        if config.method == "full":
            return "set method to lora"
        if config.train_text_encoder and config.method != "embedding":
            return "switch train_text_encoder off"
    return "choose a smaller model, or a computer with more memory"
