"""Widgets that every node which trains has."""

from __future__ import annotations

from comfy_api.latest import io

from ...training.config import Config
from ...training.option import options_of

LAST_SEED = 2**64 - 1


def steps_input(default: int, tooltip: str) -> io.Int.Input:
    """How long to train."""
    low, high = options_of(Config)["steps"].bounds
    return io.Int.Input("steps", default=default, min=int(low), max=int(high), tooltip=tooltip)


def learning_rate_input(step: float, tooltip: str) -> io.Float.Input:
    """How fast; 0 leaves it to the run."""
    return io.Float.Input(
        "learning_rate", default=0.0, min=0.0, max=1.0, step=step, round=False, tooltip=tooltip
    )


def batch_input(tooltip: str) -> io.Int.Input:
    """How much in a step; 0 leaves it to the model's size."""
    _, high = options_of(Config)["batch_size"].bounds
    return io.Int.Input("batch_size", default=0, min=0, max=int(high), tooltip=tooltip)


def seed_input(tooltip: str) -> io.Int.Input:
    """Where a run's draws come from; it stays as it is set."""
    return io.Int.Input(
        "seed", default=0, min=0, max=LAST_SEED, control_after_generate=False, tooltip=tooltip
    )


def preview_prompt_input(tooltip: str) -> io.String.Input:
    """What is painted on the way."""
    return io.String.Input("preview_prompt", default="", tooltip=tooltip)
