"""How exactly an export keeps the numbers, and how far off it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ..shared.errors import UserError
from .export_part import Case, Part

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS = list(get_args(Precision))

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}
"""The largest difference to PyTorch with which an export counts as one, by `relative_error`."""


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return |ours - theirs| / |theirs|, in Euclid's norm over all numbers together."""
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))


@torch.no_grad()
def check_difference(
    part: Part, graph: Callable[[Case], list[Tensor]], precision: Precision
) -> float:
    """Return the difference of a graph's first output to the module's, over all cases together.

    Raises UserError when it is above LIMITS.
    """
    ours, theirs = [], []
    for case in part.cases():
        told = part.module(*case.values())
        theirs.append((told[0] if isinstance(told, tuple) else told).flatten())
        ours.append(graph(case)[0].flatten())
    off = relative_error(torch.cat(ours), torch.cat(theirs))
    if not off <= TOLERANCES[precision]:
        raise UserError(
            f"The exported {part.name} is {off:.2g} off what PyTorch computes, and {precision} may "
            f"be {TOLERANCES[precision]:.2g} off: choose a finer precision."
        )
    return off
