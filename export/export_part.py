"""A part of a model on its way out of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

Axes = Mapping[int, str]
"""The axes of a tensor whose length is free, by the names that their lengths have."""

Case = Mapping[str, Tensor]
"""What a part is given: tensors by the names of its inputs, in the order of its `forward`."""


@dataclass(frozen=True, eq=False)
class Part:
    """A module that becomes one graph.

    name: of its file, without an ending.
    example: what the module is traced with; a free axis must be at least 2 long in it.
    outputs: names of what the module returns, in order.
    axes: the free axes of inputs, by their names; all other axes are as long as in the example.
    cases: gives the real inputs on which the graph is compared with the module, one at a time.
    """

    name: str
    module: nn.Module = field(repr=False)
    example: Case = field(repr=False)
    outputs: Sequence[str]
    axes: Mapping[str, Axes]
    cases: Callable[[], Iterator[Case]] = field(repr=False)

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(weight.numel() for weight in self.module.parameters())
