"""Quantize the weights of linear layers in a copy of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..shared.errors import UserError
from .calibration import LayerInputs, quantize_awq
from .quantize_formats import QUANTIZE_FORMATS, require_format
from .quantized_linear import use_fast_cpu_kernels

Model = TypeVar("Model", bound=nn.Module)

KEEP_LAYERS = ("lm_head", "time_emb")
"""Parts of names of layers that are not quantized by default: a language model's output layer and
a UNet's time embedding, which are small and affect every output."""


@dataclass(frozen=True)
class LayerSelection:
    """The names of a module's linear layers that are quantized, and of those that are skipped."""

    quantized: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def is_quantized(module: nn.Module) -> bool:
    """Return whether any weight of a module is a quantized tensor of torchao."""
    return any(hasattr(weight, "__tensor_flatten__") for weight in module.parameters())


def require_unquantized(module: nn.Module, name: str, remedy: str) -> None:
    """Raise UserError for a quantized module; name: of the model, as the user knows it."""
    if is_quantized(module):
        raise UserError(f"{name} is quantized: {remedy}.")


def select_layers(module: nn.Module, name: str, keep: Sequence[str]) -> LayerSelection:
    """Select the linear layers that the format `name` of QUANTIZE_FORMATS quantizes.

    Skipped are layers whose name contains a text of `keep`, layers that share their weight with an
    embedding (often a language model's output layer), and layers whose dimensions do not suit the
    format. Embeddings, norms and convolutions are never quantized.
    """
    tied = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    format_ = QUANTIZE_FORMATS[name]
    quantized: list[str] = []
    skipped: list[str] = []
    for path, part in module.named_modules():
        if isinstance(part, nn.Linear):
            suits = format_.config is not None and not any(
                size % format_.multiple for size in part.weight.shape
            )
            kept = id(part.weight) in tied or any(text in path for text in keep)
            (quantized if suits and not kept else skipped).append(path)
    return LayerSelection(tuple(quantized), tuple(skipped))


@torch.inference_mode(False)
@torch.no_grad()
def quantized_copy(
    module: Model,
    name: str,
    layers: Sequence[str],
    other_dtype: torch.dtype | None = None,
    inputs: LayerInputs | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> Model:
    """Return a quantized copy of a module on the same device; the module itself is not changed.

    name: one of QUANTIZE_FORMATS. layers: names of the linear layers to quantize, one after the
    other. Their original weights are shared and not copied, so the copy never takes more memory
    than in the end. other_dtype: what every other weight is cast to unless the format fixes it;
    None keeps them. inputs: of calibrated formats; a layer without an entry is quantized without
    calibration. on_layer: called after each layer; an exception that it raises ends the work.

    Raises UserError when the device does not support the format.
    """
    format_ = QUANTIZE_FORMATS[name]
    device = next(module.parameters()).device
    require_format(name, device)
    dtype = format_.dtype or other_dtype
    shared = {id(weight): weight for weight in (module.get_submodule(n).weight for n in layers)}
    result = copy.deepcopy(module, dict(shared))
    if dtype is not None:
        for part in result.modules():
            _cast(part, dtype, shared)
    if format_.config is not None:
        _quantize(result, name, layers, dtype, inputs or {}, on_layer)
        use_fast_cpu_kernels(result, name, device.type)
    return result.eval().requires_grad_(False)


@torch.inference_mode(False)
@torch.no_grad()
def quantize_in_place(module: nn.Module, name: str, layers: Collection[str]) -> None:
    """Quantize those of some layers on the CPU that suit the format and are not KEEP_LAYERS.

    name: "int8" or "int4"; the weights can be moved to any device. Raises UserError when torchao is
    missing, and when no layer is selected.
    """
    from .int4_packing import to_portable_int4

    require_format(name, torch.device("cpu"))
    suitable = select_layers(module, name, KEEP_LAYERS).quantized
    selected = [path for path in suitable if path in layers]
    if not selected:
        raise UserError(
            f"The model has no layers that {name} suits: train it without quantizing it."
        )
    _quantize(module, name, selected, QUANTIZE_FORMATS[name].dtype, {}, lambda: None)
    for layer in map(module.get_submodule, selected) if name == "int4" else ():
        layer.weight = nn.Parameter(to_portable_int4(layer.weight), requires_grad=False)


def _cast(part: nn.Module, dtype: torch.dtype, shared: Mapping[int, object]) -> None:
    """Cast a module's own weights and buffers, except those whose id is in `shared`."""
    for tensors in (part._parameters, part._buffers):
        for tensor in tensors.values():
            if tensor is not None and tensor.is_floating_point() and id(tensor) not in shared:
                tensor.data = tensor.data.to(dtype)


def _quantize(
    module: nn.Module,
    name: str,
    layers: Sequence[str],
    dtype: torch.dtype | None,
    inputs: LayerInputs,
    on_layer: Callable[[], None],
) -> None:
    from torchao.quantization import quantize_

    make_config = QUANTIZE_FORMATS[name].config
    for path in layers:
        layer = module.get_submodule(path)
        weight: torch.Tensor = layer.weight.detach()  # type: ignore[operator]
        dequantized_dtype = dtype or weight.dtype
        device = weight.device.type
        # The other CUDA kernels need a weight in the dtype that it dequantizes to; everything else
        # is quantized from float32, which rounds more exactly.
        float32 = device != "cuda" or name in ("int8", "int8 dynamic")
        weight = weight.float() if float32 else weight.to(dequantized_dtype)
        config = make_config(device)  # type: ignore[misc]
        if path in inputs:
            quantized = quantize_awq(weight, inputs[path], config)
        else:
            layer.weight = nn.Parameter(weight, requires_grad=False)
            quantize_(layer, config)
            quantized = layer.weight
        quantized = _with_dequantized_dtype(quantized, dequantized_dtype)
        layer.weight = nn.Parameter(quantized, requires_grad=False)
        on_layer()


def _with_dequantized_dtype(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a quantized weight that dequantizes to `dtype`, with unchanged integers.

    The dtype is set after quantization: casting the weight before would move values across
    rounding boundaries.
    """
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int8Tensor

    if isinstance(weight, Int4OpaqueTensor):
        scales = weight.scale_and_zero.to(dtype)
        pre_scale = weight.act_pre_scale
        pre_scale = pre_scale if pre_scale is None else pre_scale.to(dtype)
        return Int4OpaqueTensor(weight.qdata, scales, weight.block_size, weight.shape, pre_scale)
    if isinstance(weight, Int8Tensor):
        return Int8Tensor(
            weight.qdata,
            weight.scale,
            weight.block_size,
            dtype,
            zero_point=weight.zero_point,
            act_quant_kwargs=weight.act_quant_kwargs,
        )
    return weight
