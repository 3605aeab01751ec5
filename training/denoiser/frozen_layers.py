"""Frozen layers whose weights are quantized or in main memory, while adapters around them train.

peft's adapters take these layers for PyTorch's own. Whatever stores the weight, it is moved to the
device and dequantized for a forward and again for a backward pass; autograd keeps no copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from ...quantize.dequantize import dequantized_weight
from ...quantize.quantize_weights import KEEP_LAYERS, quantize_in_place
from ...shared.errors import UserError
from ..config import NO_QAT, UNQUANTIZED, TrainingConfig

TRAINING_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What PyTorch's layers compute in; a weight in float8 is cast first."""


def freeze_layers(model: nn.Module, config: TrainingConfig) -> None:
    """Prepare a diffusion model on the CPU for adapters, in place, as the settings of a run say.

    The linear layers of its blocks are quantized to `quantize_base`. Layers that are quantized, by
    that or in the model's file, and those of the first `offload_blocks` blocks become FrozenLinear
    or FrozenConv2d. Raises UserError when the weights of such layers are to be trained.
    """
    blocks = model_blocks(model)
    for name, default in (("quantize_base", UNQUANTIZED), ("offload_blocks", 0)):
        if getattr(config, name) != default:
            _check_frozen(config, name, default)
    if config.quantize_base != UNQUANTIZED:
        inside = _layers_of(blocks)
        names = {name for name, layer in model.named_modules() if layer in inside}
        quantize_in_place(model, config.quantize_base, names)
    offloaded = _layers_of(blocks[: config.offload_blocks])
    quantized = {layer for layer in model.modules() if _is_quantized_linear(layer)}
    if quantized and config.method == "full":
        raise UserError(
            "The base model is quantized, so its weights cannot be trained: set method to lora, or "
            "use a file in bf16 or fp16."
        )
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child in quantized | offloaded and (kind := _frozen_kind(child)):
                parent.add_module(name, kind(child, offloaded=child in offloaded))


def _check_frozen(config: TrainingConfig, name: str, default: object) -> None:
    """Raise UserError for an option of frozen weights in a run that trains or rounds them."""
    if config.method in ("full", "embedding"):
        raise UserError(
            f"{name} is for adapters on frozen weights: set method to lora, or {name} to {default}."
        )
    if config.quantization_aware != NO_QAT:
        raise UserError(
            f"{name} does not work with quantization_aware: set one of them to its default."
        )


def model_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a diffusion model: the items of its outermost ModuleLists, in order."""
    blocks: list[nn.Module] = []
    for part in model.children():
        blocks += part if isinstance(part, nn.ModuleList) else model_blocks(part)
    return blocks


class FrozenBytes(NamedTuple):
    """Bytes of frozen weights on their device: all, what int8 would save, the largest layer's."""

    total: int
    saved_by_int8: int
    largest_layer: int


def frozen_bytes(block: nn.Module) -> FrozenBytes:
    """Measure the frozen layers of a block that `freeze_layers` could quantize or offload."""
    sizes, saved = [0], 0
    for name, layer in block.named_modules():
        weight = layer._parameters.get("weight")
        if isinstance(layer, _FrozenLayer):
            sizes.append(layer.stored.device_bytes)
        elif weight is not None and not weight.requires_grad and _frozen_kind(layer):
            sizes.append(weight.nbytes)
            if _is_linear(layer) and not any(part in name for part in KEEP_LAYERS):
                scales = torch.float32.itemsize * len(weight)
                saved += max(0, weight.nbytes - weight.numel() - scales)
    return FrozenBytes(sum(sizes), saved, max(sizes))


def cast_frozen_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Store the frozen weights in a dtype; quantized ones stay."""
    for layer in model.modules():
        if isinstance(layer, _FrozenLayer):
            layer.stored.cast(dtype)


def _layers_of(blocks: Sequence[nn.Module]) -> set[nn.Module]:
    return {layer for block in blocks for layer in block.modules()}


def _frozen_kind(layer: nn.Module) -> type[FrozenLinear | FrozenConv2d] | None:
    if _is_linear(layer):
        return FrozenLinear
    is_conv = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
    return FrozenConv2d if is_conv else None


def _is_linear(layer: nn.Module) -> bool:
    """Whether a layer computes x W^T + b: ComfyUI's quantized ones are no nn.Linear."""
    weight = getattr(layer, "weight", None)
    return hasattr(layer, "in_features") and isinstance(weight, torch.Tensor) and weight.ndim == 2


def _is_quantized_linear(layer: nn.Module) -> bool:
    if not _is_linear(layer):
        return False
    weight: Any = layer.weight
    own_class = not isinstance(layer, nn.Linear) or hasattr(layer, "convert_weight")
    return own_class or _is_packed(weight) or weight.dtype not in TRAINING_DTYPES


class _FrozenLayer(nn.Module):
    """A layer without parameters of its own: `stored` is the layer that has them.

    `weight` [out,in] or [out,in,h,w] and `bias` [out] are dequantized values on the device.
    """

    stored: StoredLayer

    @property
    def weight(self) -> torch.Tensor:
        """The weight, [out,in] or [out,in,h,w]."""
        return self.stored.weight()

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias, [out], or None."""
        return self.stored.bias()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for x [...,in] or [B,in,H,W]."""
        return _FrozenProduct.apply(x, self)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> _FrozenLayer:
        self.stored.apply(fn)
        return self


class FrozenLinear(_FrozenLayer, nn.Linear):  # type: ignore[misc, override]
    """A linear layer: x W^T + b for x [...,in]."""

    def __init__(self, layer: Any, *, offloaded: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.stored = StoredLayer(layer, offloaded=offloaded)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output in the dtype of x."""
        return functional.linear(x, self.stored.weight(x.dtype), self.stored.bias(x.dtype))

    def input_gradient(self, gradient: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return the gradient of the input [...,in] from that of the output [...,out]."""
        return (gradient.flatten(0, -2) @ self.stored.weight(gradient.dtype)).reshape(shape)


class FrozenConv2d(_FrozenLayer, nn.Conv2d):  # type: ignore[override]
    """A convolution of x [B,in,H,W]."""

    def __new__(cls, layer: Any = None, *arguments: Any, **named: Any) -> Any:
        """Return an ordinary convolution for its arguments: peft makes its own of this class."""
        if layer is None or isinstance(layer, nn.Module):  # None in a deepcopy
            return super().__new__(cls)
        return nn.Conv2d(layer, *arguments, **named)

    def __init__(self, layer: Any, *, offloaded: bool) -> None:
        nn.Module.__init__(self)
        for name in (*nn.Conv2d.__constants__, "transposed", "_reversed_padding_repeated_twice"):
            setattr(self, name, getattr(layer, name))
        self.stored = StoredLayer(layer, offloaded=offloaded)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output in the dtype of x."""
        return self._conv_forward(x, self.stored.weight(x.dtype), self.stored.bias(x.dtype))

    def input_gradient(self, gradient: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return the gradient of the input from that of the output."""
        geometry = self.stride, self.padding, self.dilation, self.groups
        return conv2d_input(shape, self.stored.weight(gradient.dtype), gradient, *geometry)


class StoredLayer:
    """The layer that stores a frozen weight, hidden from the parameters of its model.

    An `offloaded` one stays where it is when its model moves to a device.
    """

    def __init__(self, layer: Any, *, offloaded: bool) -> None:
        self._layer = layer.requires_grad_(requires_grad=False)
        self._offloaded = offloaded
        self._device = layer.weight.device

    @property
    def device_bytes(self) -> int:
        """The bytes of the weight, 0 when it stays in main memory."""
        weight: Any = self._layer.weight
        if self._offloaded:
            return 0
        names = weight.__tensor_flatten__()[0] if _is_packed(weight) else ()
        return sum(getattr(weight, name).nbytes for name in names) or int(weight.nbytes)

    def apply(self, fn: Callable[[Any], Any]) -> None:
        """Move as `nn.Module.to` does."""
        self._device = fn(torch.empty(0)).device
        if not self._offloaded:
            self._layer._apply(fn)

    def cast(self, dtype: torch.dtype) -> None:
        """Store in another dtype what is not quantized."""
        for value in (self._layer.weight, self._layer.bias):
            if value is not None and value.dtype in TRAINING_DTYPES and not _is_packed(value):
                value.data = value.data.to(dtype)

    def weight(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the dequantized weight on the device."""
        layer = self._layer
        weight = layer.weight.detach().to(self._device)
        if hasattr(layer, "convert_weight"):  # ComfyUI's quantized layers
            weight = layer.convert_weight(weight)
            scale = getattr(layer, "pre_quant_scale", None)  # of each input
            weight = weight if scale is None else weight * scale.to(weight)
        elif _is_packed(weight):
            weight = dequantized_weight(weight)
        return weight.to(dtype or _training_dtype(weight))

    def bias(self, dtype: torch.dtype | None = None) -> torch.Tensor | None:
        """Return the bias on the device, or None."""
        bias = self._layer.bias
        if bias is None:
            return None
        return bias.detach().to(self._device).to(dtype or _training_dtype(bias))


def _is_packed(weight: torch.Tensor) -> bool:
    return hasattr(weight, "__tensor_flatten__")


def _training_dtype(value: torch.Tensor) -> torch.dtype:
    return value.dtype if value.dtype in TRAINING_DTYPES else torch.float32


class _FrozenProduct(torch.autograd.Function):
    """A frozen layer's output, which keeps neither input nor weight for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FrozenLinear | FrozenConv2d) -> torch.Tensor:
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layer.input_gradient(gradient, ctx.shape).to(ctx.dtype), None
