"""Convert 4-bit weights between PyTorch's CPU packing and the portable packing of a file.

The CPU packing depends on the vector unit of the CPU, so a file must not hold it. torchao's
Int4Tensor is the same everywhere: two values of -8..7 in a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from .quantize_formats import GROUP_SIZE
from .quantize_weights import is_quantized

if TYPE_CHECKING:
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int4Tensor


def to_portable_int4(weight: Int4OpaqueTensor) -> Int4Tensor:
    """Return a CPU-packed weight [N,K] in the portable packing, with the same values."""
    from torchao.quantization import Int4Tensor

    rows, columns = weight.shape
    # With scale 1 and offset 0, the product with the identity matrix is the integer values.
    ones = torch.ones(columns // GROUP_SIZE, rows, dtype=weight.dtype)
    values = torch.ops.aten._weight_int4pack_mm_for_cpu(
        torch.eye(columns, dtype=weight.dtype),
        weight.qdata,
        GROUP_SIZE,
        torch.stack([ones, torch.zeros_like(ones)], -1),
    )
    values = values.t().round().to(torch.int8)
    pairs = (values[:, ::2] & 0xF) | (values[:, 1::2] << 4)
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
    """Return a portable weight [N,K] in the packing of this CPU, with the same values."""
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    values = _integers(weight).to(torch.int32) + 8
    return Int4OpaqueTensor(
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1),
        torch.stack([weight.scale, weight.zero_point], -1),
        [1, GROUP_SIZE],
        weight.shape,
        weight.act_pre_scale,
    )


def unpacked_int4(weight: Int4Tensor) -> torch.Tensor:
    """Return the values [N,K] of a portable weight."""
    groups = _integers(weight).unflatten(1, (-1, GROUP_SIZE)).to(weight.dtype)
    scale, zero = (part.t().unsqueeze(-1) for part in (weight.scale, weight.zero_point))
    return (groups * scale + zero).flatten(1)


def _integers(weight: Int4Tensor) -> torch.Tensor:
    """The values -8..7 of a portable weight, int8 [N,K]."""
    return torch.stack([(weight.qdata << 4) >> 4, weight.qdata >> 4], -1).flatten(1)


@contextmanager
def portable_weights(module: nn.Module) -> Iterator[None]:
    """Replace the CPU-packed weights of a module by portable ones within the block, to save it."""
    packed = {}
    if is_quantized(module):
        from torchao.prototype.quantization.int4 import Int4OpaqueTensor

        packed = {
            layer: layer.weight
            for layer in module.modules()
            if isinstance(layer, nn.Linear) and isinstance(layer.weight, Int4OpaqueTensor)
        }
    try:
        for layer, weight in packed.items():
            layer.weight = nn.Parameter(to_portable_int4(weight), requires_grad=False)
        yield
    finally:
        for layer, weight in packed.items():
            layer.weight = weight
