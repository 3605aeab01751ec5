"""Replace the weights of linear layers by quantized ones, in a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..shared.errors import UserError
from .calibration import LayerInputs, quantize_awq
from .quantize_formats import QUANTIZE_FORMATS, require_format
from .quantized_linear import use_fast_cpu_kernels

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class LayerSelection:
    """Which linear layers of a module are quantized, and which are left alone, by their names."""

    quantized: tuple[str, ...]
    left: tuple[str, ...]


def is_quantized(module: nn.Module) -> bool:
    """Tell whether any weight of a module is held by torchao."""
    return any(hasattr(weight, "__tensor_flatten__") for weight in module.parameters())


def require_unquantized(module: nn.Module, name: str, remedy: str) -> None:
    """Raise UserError for a module that is quantized; name: what the user calls it."""
    if is_quantized(module):
        raise UserError(f"{name} is quantized: {remedy}.")


def select_layers(module: nn.Module, name: str, keep: Sequence[str]) -> LayerSelection:
    """Return which linear layers a format takes.

    Left alone are those whose name holds a word of `keep`, those whose weight is an embedding's as
    well (a language model's last layer often is), and those whose sides do not suit the format.
    Embeddings, norms and convolutions are no linear layers and never taken.
    """
    tied = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    multiple = QUANTIZE_FORMATS[name].multiple
    casts = QUANTIZE_FORMATS[name].recipe is None
    taken: dict[bool, list[str]] = {True: [], False: []}
    for path, part in module.named_modules():
        if isinstance(part, nn.Linear):
            suits = not casts and not any(side % multiple for side in part.weight.shape)
            kept = id(part.weight) in tied or any(word in path for word in keep)
            taken[suits and not kept].append(path)
    return LayerSelection(tuple(taken[True]), tuple(taken[False]))


@torch.inference_mode(False)
@torch.no_grad()
def quantized_copy(
    module: Model,
    name: str,
    layers: Sequence[str],
    rest: torch.dtype | None = None,
    inputs: LayerInputs | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> Model:
    """Return a copy of a module in one of FORMATS, on the module's own device; it stays as it is.

    layers: names of the linear layers to quantize. Their weights are quantized one after the other
    and never copied as they are, so that the copy needs no more room than it has in the end.
    rest: what every other weight is cast to where the format does not say; None leaves it.
    inputs: what calibrated formats go by; a layer that was given nothing is rounded as it is.
    on_layer: called after each layer; what it raises ends the work.

    Raises UserError when the device cannot compute with the format.
    """
    format_ = QUANTIZE_FORMATS[name]
    device = next(module.parameters()).device
    require_format(name, device)
    dtype = format_.dtype or rest
    chosen = [module.get_submodule(path).weight for path in layers]
    made = copy.deepcopy(module, {id(weight): weight for weight in chosen})
    if dtype is not None:
        for part in made.modules():
            _cast(part, dtype, {id(weight) for weight in chosen})
    if format_.recipe is not None:
        _quantize(made, name, layers, dtype, inputs or {}, on_layer)
        use_fast_cpu_kernels(made, name, device.type)
    return made.eval().requires_grad_(False)


def _cast(part: nn.Module, dtype: torch.dtype, shared: set[int]) -> None:
    """Cast a module's own weights, but not those that belong to the original as well."""
    for values in (part._parameters, part._buffers):
        for value in values.values():
            if value is not None and value.is_floating_point() and id(value) not in shared:
                value.data = value.data.to(dtype)


def _quantize(
    module: nn.Module,
    name: str,
    layers: Sequence[str],
    dtype: torch.dtype | None,
    inputs: LayerInputs,
    on_layer: Callable[[], None],
) -> None:
    from torchao.quantization import quantize_

    recipe = QUANTIZE_FORMATS[name].recipe
    for path in layers:
        layer = module.get_submodule(path)
        weight: torch.Tensor = layer.weight.detach()  # type: ignore[operator]
        held = dtype or weight.dtype
        device = weight.device.type
        asks = device == "cuda" and name not in ("int8", "int8 dynamic")
        # Some kernels ask for the precision to unpack to; the others round more exactly in float32.
        weight = weight.to(held) if asks else weight.float()
        if path in inputs:
            weight = quantize_awq(weight, inputs[path], recipe(device))  # type: ignore[misc]
            layer.weight = nn.Parameter(weight, requires_grad=False)
        else:
            layer.weight = nn.Parameter(weight, requires_grad=False)
            quantize_(layer, recipe(device))  # type: ignore[misc]
        layer.weight = nn.Parameter(_held_as(layer.weight, held), requires_grad=False)
        on_layer()


def _held_as(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    """Give a quantized weight the precision to unpack to.

    It was rounded in its full precision: rounded before, numbers halfway would fall elsewhere.
    """
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor
    from torchao.quantization import Int8Tensor

    if isinstance(weight, Int4OpaqueTensor):
        scales = weight.scale_and_zero.to(dtype)
        aware = weight.act_pre_scale
        aware = aware if aware is None else aware.to(dtype)
        return Int4OpaqueTensor(weight.qdata, scales, weight.block_size, weight.shape, aware)
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
