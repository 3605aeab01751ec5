"""Quantization-aware training (QAT): fake quantization of weights in the forward pass.

torchao's implementation of Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", section 3, with the straight-through estimator
(Bengio et al. 2013): the backward pass treats quantization as the identity. With a LoRA adapter
the merged weight W + BA is fake quantized, because that is what is quantized after the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from torchao.quantization.qat import FakeQuantizedLinear, IntxFakeQuantizeConfig
from torchao.quantization.qat.linear import enable_linear_fake_quant
from torchao.quantization.quant_primitives import ZeroPointDomain

from .quantize_formats import GROUP_SIZE
from .quantize_weights import KEEP_LAYERS, select_layers

FAKE_QUANTIZE_CONFIGS = {
    "int8": IntxFakeQuantizeConfig(torch.int8, "per_channel"),
    "int4": IntxFakeQuantizeConfig(
        torch.uint4,  # type: ignore[attr-defined]
        group_size=GROUP_SIZE,
        is_symmetric=False,
        zero_point_precision=torch.float32,
        zero_point_domain=ZeroPointDomain.FLOAT,
    ),
}
"""By name of QUANTIZE_FORMATS; each rounds exactly as its format does."""


class QATLinear(FakeQuantizedLinear):
    """A linear layer whose weight is fake quantized as its format quantizes it.

    `adapter_delta` returns what an adapter on the layer adds to the weight, [out,in].
    """

    adapter_delta: Callable[[], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x Q(W)^T + b for x [...,in].

        With an adapter that is x (Q(W + D) - D)^T + b, where D is its delta: the adapter adds
        x D^T itself.
        """
        if self.adapter_delta is None or not self.weight_fake_quantizer.enabled:
            return super().forward(x)
        delta = self.adapter_delta()
        quantized = self.weight_fake_quantizer(self.weight + delta)
        return functional.linear(x, quantized - delta, self.bias)


def prepare_qat(model: nn.Module, name: str, keep: Sequence[str] = KEEP_LAYERS) -> None:
    """Replace the linear layers that the format `name` quantizes by QATLinear, in place.

    name: one of FAKE_QUANTIZE_CONFIGS. Parameter names do not change. Adapters are added
    afterwards, and then `include_adapters` is called.
    """
    for path in select_layers(model, name, keep).quantized:
        layer = model.get_submodule(path)
        qat_layer = QATLinear(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            weight_config=FAKE_QUANTIZE_CONFIGS[name],
            device="meta",
        )
        qat_layer.weight, qat_layer.bias = layer.weight, layer.bias
        model.set_submodule(path, qat_layer.train(layer.training))


def include_adapters(model: nn.Module) -> None:
    """Make QAT layers with a LoRA adapter fake quantize the merged weight."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), QATLinear):
            layer.get_base_layer().adapter_delta = _delta_of(layer)


def _delta_of(layer: LoraLayer) -> Callable[[], Tensor]:
    (adapter,) = layer.lora_A
    return lambda: layer.get_delta_weight(adapter)


@contextmanager
def fake_quantization_disabled(model: nn.Module) -> Iterator[None]:
    """Disable fake quantization in all layers of a model within the block."""
    for part in model.modules():
        enable_linear_fake_quant(part, enabled=False)
    try:
        yield
    finally:
        for part in model.modules():
            enable_linear_fake_quant(part)
