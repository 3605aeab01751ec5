"""Compare the outputs of an exported graph with PyTorch, and bound their difference."""

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
"""Largest allowed relative error of an export, by precision."""


def relative_error(exported: Tensor, expected: Tensor) -> float:
    """Return |exported - expected| / |expected|, Euclidean norms over all elements."""
    exported, expected = exported.double(), expected.double()
    return float((exported - expected).norm() / expected.norm().clamp(min=1e-12))


@torch.no_grad()
def check_difference(
    part: Part, graph: Callable[[Case], list[Tensor]], precision: Precision
) -> float:
    """Return the relative error of a graph's first output over all cases of a part.

    Raises UserError when it is above TOLERANCES.
    """
    exported, expected = [], []
    for case in part.cases():
        output = part.module(*case.values())
        expected.append((output[0] if isinstance(output, tuple) else output).flatten())
        exported.append(graph(case)[0].flatten())
    error = relative_error(torch.cat(exported), torch.cat(expected))
    if not error <= TOLERANCES[precision]:
        raise UserError(
            f"The output of the exported {part.name} differs from PyTorch by {error:.2g}, and "
            f"{precision} allows {TOLERANCES[precision]:.2g}: choose a higher precision."
        )
    return error
