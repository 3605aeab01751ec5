"""Linear layers that run torchao's quantized weights on PyTorch's fast CPU kernels.

torchao's own linear function is meant for torch.compile; in eager mode it dequantizes the weight or
sums over it at each call. The layers here compute the same values.
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
"""Up to this many bfloat16 rows go through the packed int8 kernel; for more, dequantizing the
weight once is faster."""

COLUMN_MULTIPLE = 16
"""PyTorch's int8 kernels are only correct for rows whose length is a multiple of this."""

ALIGNMENT = 64
"""Bytes. The int8 kernels crash on memory that is not aligned to up to 32; PyTorch allocates at
multiples of this, tensors mapped from a file lie at multiples of 8."""

INT8_HALF_RANGE = 127.5
"""Half of the 255 steps between -128 and 127."""


def _is_aligned(x: Tensor) -> bool:
    return x.data_ptr() % ALIGNMENT == 0


def _needs_gradient(x: Tensor) -> bool:
    """Return whether autograd records x; integer kernels have no gradients."""
    return x.requires_grad and torch.is_grad_enabled()


class Int8Linear(nn.Linear):
    """A linear layer whose `weight` is torchao's Int8Tensor with one scale for each row."""

    weight: Int8Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b for x [...,in]: [...,out] in the dtype of x."""
        if _needs_gradient(x):
            return functional.linear(x, self.weight.dequantize(x.dtype), self.bias)
        if x.device.type != "cpu":
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        dynamic = self.weight.act_quant_kwargs is not None
        product = self._dynamic(rows) if dynamic else self._weight_only(rows)
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _dynamic(self, rows: Tensor) -> Tensor:
        """Quantize each row to int8, multiply as integers, and rescale to float32."""
        values = rows.float()
        scale = values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
        scale = scale / INT8_HALF_RANGE
        quantized = (values / scale).round().clamp(-128, 127).to(torch.int8)
        product = torch._int_mm(quantized, self.weight.qdata.t())
        return product.float() * scale * self.weight.scale.flatten().float()

    def _weight_only(self, rows: Tensor) -> Tensor:
        weight, scale = self.weight.qdata, self.weight.scale.flatten().to(rows.dtype)
        few = rows.dtype == torch.bfloat16 and len(rows) <= MAX_PACKED_ROWS
        if few and _is_aligned(weight):
            rows = rows.contiguous()
            rows = rows if _is_aligned(rows) else rows.clone()
            return torch._weight_int8pack_mm(rows, weight, scale)
        return functional.linear(rows, weight.to(rows.dtype)) * scale


class Int4Linear(nn.Linear):
    """A linear layer whose `weight` is torchao's Int4OpaqueTensor, which takes bfloat16 only."""

    weight: Int4OpaqueTensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b for x [...,in]: [...,out] in the dtype of x."""
        weight = self.weight
        if _needs_gradient(x):
            identity = torch.eye(self.in_features, dtype=weight.dtype)
            weight = functional.linear(identity, weight).t()
        product = functional.linear(x.to(weight.dtype), weight).to(x.dtype)
        return product if self.bias is None else product + self.bias


@torch.inference_mode(False)
def use_fast_cpu_kernels(module: nn.Module, name: str, device: str) -> None:
    """Replace the linear layers with torchao weights by the layers of this file, in place.

    name: of the model, as the user knows it. device: the device type that it will run on, "cpu" or
    "cuda". Portable 4-bit weights are repacked for this CPU. Other layers stay. Raises UserError
    for 4-bit weights that are packed for another device type.
    """
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int4Tensor, Int4TilePackedTo4dTensor, Int8Tensor

    from .int4_packing import to_cpu_int4

    for path, layer in list(module.named_modules()):
        if type(layer) is not nn.Linear:
            continue
        weight = layer.weight
        if isinstance(weight, Int4TilePackedTo4dTensor if device == "cpu" else Int4Tensor):
            raise UserError(
                f"The 4-bit weights of {name} are packed for another device type than "
                f'"{device}": quantize the original model on this computer.'
            )
        kind: type[nn.Linear] = Int4Linear
        if isinstance(weight, Int4Tensor):
            weight = nn.Parameter(to_cpu_int4(weight), requires_grad=False)
        elif isinstance(weight, Int8Tensor) and _has_row_scales(weight):
            kind = Int8Linear
            if not _is_aligned(weight.qdata):
                weight = nn.Parameter(weight.clone(), requires_grad=False)
        elif not isinstance(weight, Int4OpaqueTensor):
            continue
        fast = kind(layer.in_features, layer.out_features, device="meta")
        fast.weight, fast.bias = weight, layer.bias
        module.set_submodule(path, fast.train(layer.training))


def _has_row_scales(weight: Int8Tensor) -> bool:
    """Return whether a weight, perhaps of another program, suits `Int8Linear`."""
    columns = weight.shape[1]
    return list(weight.block_size) == [1, columns] and columns % COLUMN_MULTIPLE == 0
