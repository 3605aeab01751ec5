"""Where a sandbox training run stands, kept outside git so that the same command goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...as_package import ROOT
from .ema import Average

STATES = ROOT / ".cache" / "sandbox"


def without_origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without the path that its model was once loaded from."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def save_state(
    name: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> None:
    """Write weights, optimizer and average in one atomic step."""
    STATES.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.weights,
        "average_steps": average.steps,
    }
    part = STATES / f"{name}.part"
    torch.save(state, part)
    part.replace(STATES / f"{name}.pt")


def load_state(
    name: str, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> int:
    """Take a run up where it stopped; returns its step, 0 where there is none."""
    path = STATES / f"{name}.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    average.weights, average.steps = state["average"], state["average_steps"]
    return state["step"]
