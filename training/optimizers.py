"""The optimizers by the names that users know, each from the library that maintains it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from ..errors import MendableError
from .config import Config

Group = dict[str, Any]


def make_optimizer(config: Config, groups: Iterable[Group]) -> torch.optim.Optimizer:
    """Return the optimizer of a run, for groups of `params` with their peak rate `lr`.

    Raises MendableError when its library is not installed.
    """
    if config.ema and config.optimizer == "schedulefree":
        raise MendableError(
            'The optimizer "schedulefree" averages the weights by itself: set ema to 0.'
        )
    decay = config.weight_decay
    if config.optimizer == "adamw8bit":
        library = _library("bitsandbytes", "adamw8bit")
        return library.optim.AdamW8bit(groups, weight_decay=decay)
    if config.optimizer == "prodigy":
        library = _library("prodigyopt", "prodigy")
        return library.Prodigy(
            groups, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
        )
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, weight_decay=decay, scale_parameter=False, relative_step=False)
    if config.optimizer == "schedulefree":
        library = _library("schedulefree", "schedulefree")
        return library.AdamWScheduleFree(groups, weight_decay=decay)
    # A fused step unscales fp16 gradients by itself, too late for their norm to be cut.
    fused = config.precision != "fp16"
    return torch.optim.AdamW(groups, weight_decay=decay, fused=fused)


def _library(name: str, optimizer: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MendableError(
            f'The optimizer "{optimizer}" needs the package {name}: install it into ComfyUI\'s '
            "Python, or choose adamw."
        ) from error


def peak_rate(config: Config, suggested: float) -> float:
    """Return the highest rate of a run; Prodigy (Mishchenko & Defazio 2023) finds its own scale."""
    if config.learning_rate:
        return config.learning_rate
    if config.optimizer == "prodigy":
        return 1.0
    return suggested


def rate_schedule(config: Config) -> Callable[[int], float]:
    """Return the function from a step's number to its share of the peak rate.

    The rate rises linearly for `warmup` steps, times what diffusers' scheduler of that name says
    for a run of `steps`. It is a function of the step alone, so it needs no state to go on.
    """
    stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        config.schedule, stand_in, num_warmup_steps=0, num_training_steps=config.steps, num_cycles=1
    )
    [later] = scheduler.lr_lambdas
    return lambda step: min(1.0, (step + 1) / (config.warmup + 1)) * later(step)
