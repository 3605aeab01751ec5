"""One optimizer that all processes of a run share: each keeps the state of some parameters.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
stage 1. A checkpoint holds the state of all, so it goes on with any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from ...shared.errors import UserError
from ..config import Config

DIVISIBLE = ("adamw", "adamw8bit", "adafactor")
"""Optimizers that look at each parameter alone."""


def shares_state(config: Config) -> bool:
    """Tell whether each process keeps a part of the optimizer's state only."""
    return config.strategy == "zero" and config.processes > 1


def check(config: Config) -> None:
    """Raise UserError when a run is to share an optimizer that cannot be divided."""
    if shares_state(config) and config.optimizer not in DIVISIBLE:
        raise UserError(
            f"The optimizer {config.optimizer} looks at all parameters together and cannot be "
            "shared: set strategy to ddp, or the optimizer to adamw."
        )


def share(
    kind: type[torch.optim.Optimizer],
    groups: list[dict[str, Any]],
    settings: dict[str, Any],
) -> torch.optim.Optimizer:
    """Return an optimizer of a kind for groups of parameters, this process's part of it inside."""
    return ZeroRedundancyOptimizer(groups, optimizer_class=kind, **settings)


def groups_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the groups that the next step reads: those of this process too, if it is shared."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        return [*optimizer.param_groups, *optimizer.optim.param_groups]
    return optimizer.param_groups


def gather(optimizer: torch.optim.Optimizer) -> None:
    """Bring the first process what all know, for `states`; every process has to call this."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)


def states(optimizer: torch.optim.Optimizer) -> Mapping[torch.Tensor, dict[str, Any]]:
    """Return what an optimizer keeps of each parameter."""
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        return optimizer.state
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    held = optimizer.state_dict()["state"]
    return {parameters[place]: state for place, state in held.items()}


def put_states(
    optimizer: torch.optim.Optimizer, held: Mapping[torch.Tensor, dict[str, Any]]
) -> None:
    """Give an optimizer what it kept of each parameter; of a shared one each its part."""
    part = optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer
    for group in part.param_groups:
        for parameter in group["params"]:
            part.state[parameter] = held[parameter]
