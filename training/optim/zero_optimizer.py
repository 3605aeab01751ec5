"""An optimizer whose state is sharded over the processes of a run (ZeRO stage 1).

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models". A
checkpoint has the state of all parameters, so it can be resumed with any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from ...shared.errors import UserError
from ..config import Config

SHARDABLE = ("adamw", "adamw8bit", "adafactor")
"""Optimizers that update each parameter independently of the others."""


def shards_state(config: Config) -> bool:
    """Whether each process has only a shard of the optimizer's state."""
    return config.strategy == "zero" and config.processes > 1


def check_optimizer(config: Config) -> None:
    """Raise UserError when the optimizer's state cannot be sharded as the settings say."""
    if shards_state(config) and config.optimizer not in SHARDABLE:
        raise UserError(
            f"The optimizer {config.optimizer} cannot be sharded as the strategy zero does: "
            "set strategy to ddp, or the optimizer to adamw."
        )


def shard_optimizer(
    optimizer_class: type[torch.optim.Optimizer],
    groups: list[dict[str, Any]],
    settings: dict[str, Any],
) -> torch.optim.Optimizer:
    """Return an optimizer for parameter groups that has this process's shard of the state."""
    return ZeroRedundancyOptimizer(groups, optimizer_class=optimizer_class, **settings)


def param_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return all parameter groups to set a learning rate in: with ZeRO also those of the shard."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        return [*optimizer.param_groups, *optimizer.optim.param_groups]
    return optimizer.param_groups


def consolidate_state(optimizer: torch.optim.Optimizer) -> None:
    """Gather a sharded state in the first process, for `optimizer_states`; all have to call it."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)


def optimizer_states(optimizer: torch.optim.Optimizer) -> Mapping[torch.Tensor, dict[str, Any]]:
    """Return the state of each parameter, in a sharded optimizer after `consolidate_state`."""
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        return optimizer.state
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = optimizer.state_dict()["state"]
    return {parameters[index]: state for index, state in states.items()}


def load_optimizer_states(
    optimizer: torch.optim.Optimizer, states: Mapping[torch.Tensor, dict[str, Any]]
) -> None:
    """Load the state of each parameter; a sharded optimizer loads its shard."""
    shard = optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer
    for group in shard.param_groups:
        for parameter in group["params"]:
            shard.state[parameter] = states[parameter]
