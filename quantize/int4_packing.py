"""4-bit weights between a CPU's own packing and the plain one that a file holds.

A CPU packs them as its vector unit likes to read them, so a file made of that would be noise to
another CPU. torchao's Int4Tensor is the same everywhere: two numbers of -8..7 in a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from .quantize_formats import GROUP_SIZE

if TYPE_CHECKING:
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int4Tensor


def to_portable_int4(weight: Int4OpaqueTensor) -> Int4Tensor:
    """Return a packed weight [N,K] in the plain packing, the same in every number."""
    from torchao.quantization import Int4Tensor

    rows, columns = weight.shape
    # With a scale of 1 and an offset of 0 the product with the unit matrix is the numbers.
    ones = torch.ones(columns // GROUP_SIZE, rows, dtype=weight.dtype)
    numbers = torch.ops.aten._weight_int4pack_mm_for_cpu(
        torch.eye(columns, dtype=weight.dtype),
        weight.qdata,
        GROUP_SIZE,
        torch.stack([ones, torch.zeros_like(ones)], -1),
    )
    numbers = numbers.t().round().to(torch.int8)
    pairs = (numbers[:, ::2] & 0xF) | (numbers[:, 1::2] << 4)
    scale, zero = weight.scale_and_zero.unbind(-1)
    return Int4Tensor(
        pairs.contiguous(),
        scale.contiguous(),
        zero.contiguous(),
        [1, GROUP_SIZE],
        weight.shape,
        weight.act_pre_scale,
    )


def to_cpu_int4(weight: Int4Tensor) -> Int4OpaqueTensor:
    """Return a plain weight [N,K] in the packing of this CPU, the same in every number."""
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    low, high = (weight.qdata << 4) >> 4, weight.qdata >> 4
    numbers = torch.stack([low, high], -1).flatten(1).to(torch.int32) + 8
    return Int4OpaqueTensor(
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1),
        torch.stack([weight.scale, weight.zero_point], -1),
        [1, GROUP_SIZE],
        weight.shape,
        weight.act_pre_scale,
    )


@contextmanager
def portable_weights(module: nn.Module) -> Iterator[None]:
    """Hold a module's packed weights plainly, to be written to a file; afterwards as before."""
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    own = {
        part: part.weight
        for part in module.modules()
        if isinstance(part, nn.Linear) and isinstance(part.weight, Int4OpaqueTensor)
    }
    try:
        for part, weight in own.items():
            part.weight = nn.Parameter(to_portable_int4(weight), requires_grad=False)
        yield
    finally:
        for part, weight in own.items():
            part.weight = weight
