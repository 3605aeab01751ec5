"""Convert quantized weights back to ordinary ones, for programs that cannot read them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .int4_packing import unpacked_int4
from .quantize_weights import is_quantized

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)
@torch.no_grad()
def dequantize(module: Model) -> Model:
    """Return a copy of a module with dequantized ordinary weights; itself if it has no others."""
    if not is_quantized(module):
        return module
    layers = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and hasattr(part.weight, "__tensor_flatten__")
    }
    result = copy.deepcopy(module, {id(layer.weight): layer.weight for layer in layers.values()})
    for name, layer in layers.items():
        ordinary = nn.Linear(layer.in_features, layer.out_features, device="meta")
        ordinary.weight = nn.Parameter(dequantized_weight(layer.weight), requires_grad=False)
        ordinary.bias = result.get_submodule(name).bias  # type: ignore[assignment]
        result.set_submodule(name, ordinary)
    return result


def dequantized_weight(weight: Any) -> Tensor:
    """Return the values [out,in] of torchao's quantized weight, in the dtype it dequantizes to."""
    from torchao.quantization import Float8Tensor, Int4Tensor, Int8Tensor

    if isinstance(weight, Float8Tensor | Int8Tensor):
        return weight.dequantize(weight.dtype)
    if isinstance(weight, Int4Tensor) and weight.act_pre_scale is None:
        return unpacked_int4(weight)
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return functional.linear(identity, weight).t().contiguous()
