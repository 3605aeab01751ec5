"""Optimizers by name, and learning rate schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from ...shared.errors import UserError
from ...shared.packages import require_packages
from ..config import Config
from .adamw_8bit import AdamW8bit
from .zero_optimizer import shard_optimizer, shards_state

ParamGroup = dict[str, Any]

COSINE_CYCLES = 4
POLYNOMIAL_POWER = 2.0


def make_optimizer(config: Config, groups: list[ParamGroup]) -> torch.optim.Optimizer:
    """Return the optimizer of a run, for groups of `params` with their peak learning rate `lr`.

    Raises UserError when its library is not installed, and for `ema` with "schedulefree".
    """
    if config.ema and config.optimizer == "schedulefree":
        raise UserError('The optimizer "schedulefree" averages the weights itself: set ema to 0.')
    optimizer_class, settings = _optimizer_class(config)
    settings["weight_decay"] = config.weight_decay
    if shards_state(config):
        return shard_optimizer(optimizer_class, groups, settings)
    return optimizer_class(groups, **settings)


def _optimizer_class(config: Config) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The class of the optimizer, and its arguments except `weight_decay`."""
    if config.optimizer == "adamw8bit":
        return AdamW8bit, {}
    if config.optimizer == "prodigy":
        require_packages("The optimizer prodigy", "prodigyopt>=1.1")
        import prodigyopt

        return prodigyopt.Prodigy, {"use_bias_correction": True, "safeguard_warmup": True}
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor, {"scale_parameter": False, "relative_step": False}
    if config.optimizer == "schedulefree":
        require_packages("The optimizer schedulefree", "schedulefree>=1.4")
        import schedulefree

        return schedulefree.AdamWScheduleFree, {}
    # A fused step unscales fp16 gradients itself, after gradient clipping.
    return torch.optim.AdamW, {"fused": config.precision != "fp16"}


def peak_learning_rate(config: Config, suggested: float) -> float:
    """Return the peak learning rate; Prodigy (Mishchenko & Defazio 2023) scales 1.0 by itself."""
    if config.learning_rate:
        return config.learning_rate
    if config.optimizer == "prodigy":
        return 1.0
    return suggested


def lr_schedule(config: Config) -> Callable[[int], float]:
    """Return a function from a step to its learning rate as a fraction of the peak.

    It is diffusers' schedule of that name over `steps` steps times a linear warm-up of `warmup`
    steps. It has no state, so a resumed run needs none.
    """
    placeholder = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        config.schedule,
        placeholder,
        num_warmup_steps=0,
        num_training_steps=config.steps,
        num_cycles=COSINE_CYCLES,
        power=POLYNOMIAL_POWER,
    )
    [fraction] = scheduler.lr_lambdas
    return lambda step: min(1.0, (step + 1) / (config.warmup + 1)) * fraction(step)
