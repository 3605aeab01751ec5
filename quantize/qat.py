"""Training that feels the rounding: weights are rounded on the way forward, and learn all the same.

torchao's quantization-aware training (Jacob et al. 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", section 3): gradients pass the rounding
as if it were not there (Bengio et al. 2013). What is rounded is the weight that comes of it all:
with adapters beside a layer, W + BA, which is what is quantized once they are merged.
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
from .quantize_models import KEEP_LAYERS
from .quantize_weights import select_layers

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
"""By the names in `QUANTIZE_FORMATS`, whose rounding this is."""


class QATLinear(FakeQuantizedLinear):
    """A linear layer whose weight is rounded as its format is going to round it.

    `change` gives what an adapter beside the layer adds to the weight, [out,in].
    """

    change: Callable[[], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x Q(W)^T + b for x [...,in], and less what the adapter is going to add to that."""
        if self.change is None or not self.weight_fake_quantizer.enabled:
            return super().forward(x)
        change = self.change()
        rounded = self.weight_fake_quantizer(self.weight + change)
        return functional.linear(x, rounded - change, self.bias)


def prepare_qat(model: nn.Module, name: str, keep: Sequence[str] = KEEP_LAYERS) -> None:
    """Let a model feel the rounding of one of ROUNDINGS, in the layers that `quantize` would take.

    Its parameters keep their names. Adapters are put in afterwards, and then `include_adapters`.
    """
    for path in select_layers(model, name, keep).quantized:
        layer = model.get_submodule(path)
        aware = QATLinear(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            weight_config=FAKE_QUANTIZE_CONFIGS[name],
            device="meta",
        )
        aware.weight, aware.bias = layer.weight, layer.bias
        aware.train(layer.training)
        parent, _, place = path.rpartition(".")
        setattr(model.get_submodule(parent), place, aware)


def include_adapters(model: nn.Module) -> None:
    """Let layers that have a LoRA beside them round what both are together."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), QATLinear):
            layer.get_base_layer().change = _change_of(layer)


def _change_of(layer: LoraLayer) -> Callable[[], Tensor]:
    (adapter,) = layer.lora_A
    return lambda: layer.get_delta_weight(adapter)


@contextmanager
def fake_quantization_disabled(model: nn.Module) -> Iterator[None]:
    """Let a model compute with its weights as they are for a while."""
    for part in model.modules():
        enable_linear_fake_quant(part, enabled=False)
    try:
        yield
    finally:
        for part in model.modules():
            enable_linear_fake_quant(part)
