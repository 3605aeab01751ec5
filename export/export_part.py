"""A part of a model that is exported as one graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

Axes = Mapping[int, str]
"""Names of the dynamic axes of a tensor, by axis number."""

Case = Mapping[str, Tensor]
"""Inputs of a part: tensors by input name, in the order of its `forward`."""


@dataclass(frozen=True, eq=False)
class Part:
    """A module that is exported as one graph.

    name: of the file, without a suffix.
    example: inputs that the module is traced with; dynamic axes must be at least 2 long.
    outputs: names of the outputs, in order.
    axes: dynamic axes by input name; all other axes have the length of the example.
    cases: yields the inputs on which the graph is compared with the module.
    """

    name: str
    module: nn.Module = field(repr=False)
    example: Case = field(repr=False)
    outputs: Sequence[str]
    axes: Mapping[str, Axes]
    cases: Callable[[], Iterator[Case]] = field(repr=False)

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(weight.numel() for weight in self.module.parameters())


def to_cpu_float32(module: Module) -> Module:
    """Return a module in float32 on the CPU: itself, or a copy."""
    weight = next(module.parameters())
    if weight.dtype == torch.float32 and weight.device.type == "cpu":
        return module
    return copy.deepcopy(module).cpu().float()
