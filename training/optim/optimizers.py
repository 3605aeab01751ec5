"""The optimizers by the names that users know, each from the library that maintains it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from ...shared.errors import UserError
from ..config import Config
from .zero_optimizer import share, shares_state

Group = dict[str, Any]

RESTARTS, POWER = 4, 2.0
"""Falls of "cosine_with_restarts", and how "polynomial" falls: as the square of what is left."""


def make_optimizer(config: Config, groups: list[Group]) -> torch.optim.Optimizer:
    """Return the optimizer of a run, for groups of `params` with their peak rate `lr`.

    Raises UserError when its library is not installed, and for an average of averages.
    """
    if config.ema and config.optimizer == "schedulefree":
        raise UserError(
            'The optimizer "schedulefree" averages the weights by itself: set ema to 0.'
        )
    kind, settings = _kind(config)
    settings["weight_decay"] = config.weight_decay
    return share(kind, groups, settings) if shares_state(config) else kind(groups, **settings)


def _kind(config: Config) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """What the optimizer is, and what it is told beside the decay of the weights."""
    if config.optimizer == "adamw8bit":
        return _library("bitsandbytes", "adamw8bit").optim.AdamW8bit, {}
    if config.optimizer == "prodigy":
        library = _library("prodigyopt", "prodigy")
        return library.Prodigy, {"use_bias_correction": True, "safeguard_warmup": True}
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor, {"scale_parameter": False, "relative_step": False}
    if config.optimizer == "schedulefree":
        return _library("schedulefree", "schedulefree").AdamWScheduleFree, {}
    # A fused step unscales fp16 gradients by itself, too late for their norm to be cut.
    return torch.optim.AdamW, {"fused": config.precision != "fp16"}


def _library(name: str, optimizer: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
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
        config.schedule,
        stand_in,
        num_warmup_steps=0,
        num_training_steps=config.steps,
        num_cycles=RESTARTS,
        power=POWER,
    )
    [later] = scheduler.lr_lambdas
    return lambda step: min(1.0, (step + 1) / (config.warmup + 1)) * later(step)
