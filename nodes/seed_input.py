"""The seed widget."""

from __future__ import annotations

from comfy_api.latest import io


def seed_input(tooltip: str, *, randomize: bool = False, optional: bool = False) -> io.Int.Input:
    """The widget for a seed of 64 bits; `randomize`: offer another seed after each run."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=randomize,
        optional=optional,
        tooltip=tooltip,
    )
