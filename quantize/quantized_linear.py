"""Linear layers that compute with torchao's weights by the kernels that PyTorch has for a CPU.

torchao's own way through these weights is made to be compiled; run as it is, it unpacks a weight at
each call, or sums over it. The numbers are the same here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..shared.errors import UserError

if TYPE_CHECKING:
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int8Tensor

MAX_PACKED_ROWS = 12
"""Up to so many, bfloat16 rows are multiplied by 8-bit weights as they are; above, unpacking the
weights once is faster."""

COLUMN_MULTIPLE = 16
"""PyTorch's kernels for 8-bit weights are right only for rows of a multiple of so many numbers."""

ALIGNMENT = 64
"""Bytes. Those kernels read memory in pieces that have to begin at a multiple of up to 32, or the
process ends; memory of PyTorch's own begins at a multiple of this, that of a file at one of 8."""

INT8_HALF_RANGE = 127.5
"""Half of what 8 bits tell apart."""


def _is_aligned(x: Tensor) -> bool:
    return x.data_ptr() % ALIGNMENT == 0


def _explained(x: Tensor) -> bool:
    """Whether somebody is going to ask for gradients, which whole numbers do not have."""
    return x.requires_grad and torch.is_grad_enabled()


class Int8Linear(nn.Linear):
    """A linear layer whose `weight` is torchao's Int8Tensor, one scale for each row."""

    weight: Int8Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b for x [...,in]; [...,out] in the precision of x."""
        if _explained(x):
            return functional.linear(x, self.weight.dequantize(x.dtype), self.bias)
        if x.device.type != "cpu":
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        dynamic = self.weight.act_quant_kwargs is not None
        product = self._whole_numbers(rows) if dynamic else self._weights_only(rows)
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _whole_numbers(self, rows: Tensor) -> Tensor:
        """Round each row to 8 bits, multiply in whole numbers, and scale back; float32."""
        numbers = rows.float()
        scale = numbers.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
        scale = scale / INT8_HALF_RANGE
        rounded = (numbers / scale).round().clamp(-128, 127).to(torch.int8)
        product = torch._int_mm(rounded, self.weight.qdata.t())
        return product.float() * scale * self.weight.scale.flatten().float()

    def _weights_only(self, rows: Tensor) -> Tensor:
        weight, scale = self.weight.qdata, self.weight.scale.flatten().to(rows.dtype)
        few = rows.dtype == torch.bfloat16 and len(rows) <= MAX_PACKED_ROWS
        if few and _is_aligned(weight):
            rows = rows.contiguous()
            rows = rows if _is_aligned(rows) else rows.clone()
            return torch._weight_int8pack_mm(rows, weight, scale)
        return functional.linear(rows, weight.to(rows.dtype)) * scale


class Int4Linear(nn.Linear):
    """A linear layer whose `weight` is torchao's Int4OpaqueTensor, which reads bfloat16 only."""

    weight: Int4OpaqueTensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b for x [...,in]; [...,out] in the precision of x."""
        weight = self.weight
        if _explained(x):
            unit = torch.eye(self.in_features, dtype=weight.dtype)
            weight = functional.linear(unit, weight).t()
        product = functional.linear(x.to(weight.dtype), weight).to(x.dtype)
        return product if self.bias is None else product + self.bias


@torch.inference_mode(False)
def use_fast_cpu_kernels(module: nn.Module, name: str, device: str) -> None:
    """Give a module that holds torchao's weights, in their places, the layers of this file.

    name: what the user calls the model; device: the kind that it is going to compute on, "cpu",
    "cuda". 4-bit weights that were read from a file are packed for this CPU. What is not quantized
    stays. Raises UserError for 4-bit weights that were packed for another kind of device.
    """
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int4Tensor, Int4TilePackedTo4dTensor, Int8Tensor

    from .int4_packing import to_cpu_int4

    for path, part in list(module.named_modules()):
        if type(part) is not nn.Linear:
            continue
        weight = part.weight
        if isinstance(weight, Int4TilePackedTo4dTensor if device == "cpu" else Int4Tensor):
            raise UserError(
                f"The 4-bit weights of {name} were packed for another kind of device than "
                f'"{device}": quantize the original model on this computer.'
            )
        if isinstance(weight, Int4Tensor):
            part.weight = nn.Parameter(to_cpu_int4(weight), requires_grad=False)
            _take_place(module, path, part, Int4Linear)
        elif isinstance(weight, Int4OpaqueTensor):
            _take_place(module, path, part, Int4Linear)
        elif isinstance(weight, Int8Tensor) and _suits(weight):
            if not _is_aligned(weight.qdata):
                part.weight = nn.Parameter(weight.clone(), requires_grad=False)
            _take_place(module, path, part, Int8Linear)


def _suits(weight: Int8Tensor) -> bool:
    """Whether a weight, which may be of another program's making, has one scale for each row."""
    columns = weight.shape[1]
    return list(weight.block_size) == [1, columns] and columns % COLUMN_MULTIPLE == 0


def _take_place(module: nn.Module, path: str, part: nn.Linear, kind: type[nn.Linear]) -> None:
    made = kind(part.in_features, part.out_features, device="meta")
    made.weight, made.bias = part.weight, part.bias
    made.train(part.training)
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, made)
