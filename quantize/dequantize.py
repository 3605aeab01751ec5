"""Ordinary weights again, for programs that know no others."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..diffusion.diffusion_model import Diffusion
from .quantize_weights import is_quantized

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)
@torch.no_grad()
def dequantize(module: Model) -> Model:
    """Return a module with ordinary weights, which hold the rounded numbers: itself, or a copy."""
    if not is_quantized(module):
        return module
    packed = {
        path: part
        for path, part in module.named_modules()
        if isinstance(part, nn.Linear) and hasattr(part.weight, "__tensor_flatten__")
    }
    made = copy.deepcopy(module, {id(part.weight): part.weight for part in packed.values()})
    for path, part in packed.items():
        plain = nn.Linear(part.in_features, part.out_features, device="meta")
        plain.weight = nn.Parameter(_numbers(part.weight), requires_grad=False)
        plain.bias = made.get_submodule(path).bias  # type: ignore[assignment]
        parent, _, name = path.rpartition(".")
        setattr(made.get_submodule(parent), name, plain)
    return made


def dequantize_diffusion(diffusion: Diffusion) -> Diffusion:
    """Return a Stable Diffusion with ordinary weights and no `patcher`; itself if it has them."""
    if not is_quantized(diffusion.modules):
        return diffusion
    parts: dict[str, Any] = {
        place: dequantize(module) for place, module in diffusion.modules.items()
    }
    return replace(diffusion, patcher=None, **parts)


def _numbers(weight: Tensor) -> Tensor:
    """What a quantized weight stands for, [out,in], in the precision that it unpacks to."""
    from torchao.quantization import Float8Tensor, Int8Tensor

    if isinstance(weight, Float8Tensor | Int8Tensor):
        return weight.dequantize(weight.dtype)
    unit = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return functional.linear(unit, weight).t().contiguous()
