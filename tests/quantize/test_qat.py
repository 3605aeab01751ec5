"""Fake quantization in training equals the quantization afterwards."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.quantize.qat import fake_quantization_disabled, include_adapters, prepare_qat
from kosmos_dreambooth.quantize.quantize_weights import quantized_copy
from kosmos_dreambooth.quantize.quantized_linear import Int4Linear
from peft import LoraConfig, inject_adapter_in_model
from torch import nn


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 32))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_fake_quantization_equals_the_format(name: str) -> None:
    qat_model, x = small(), torch.randn(7, 64)
    prepare_qat(qat_model, name, [])
    assert qat_model.state_dict().keys() == small().state_dict().keys()
    quantized = quantized_copy(small(), name, ["0", "2"], torch.float32)
    error = (quantized(x).float() - small()(x)).norm()
    tolerance = 0.02 if isinstance(quantized[0], Int4Linear) else 1e-4  # int4 scales are bfloat16
    assert (qat_model(x) - quantized(x)).norm() < tolerance * small()(x).norm()
    assert (qat_model(x) - quantized(x)).norm() < 0.2 * error
    with fake_quantization_disabled(qat_model):
        assert torch.equal(qat_model(x), small()(x))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_the_merged_weight_is_fake_quantized(name: str) -> None:
    qat_model, x = small(), torch.randn(7, 64)
    prepare_qat(qat_model, name, [])
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["0"]), qat_model)
    include_adapters(qat_model)
    layer = qat_model[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=0.1)
    merged = small()
    with torch.no_grad():
        merged[0].weight += layer.get_delta_weight("default")
    expected = small()
    expected[0].weight = merged[0].weight
    prepare_qat(expected, name, [])
    assert torch.allclose(qat_model(x), expected(x), atol=1e-5)
    with fake_quantization_disabled(qat_model):
        assert torch.allclose(qat_model(x), merged(x), atol=1e-5)
    loss = qat_model(x).square().sum()
    loss.backward()
    assert layer.lora_A["default"].weight.grad.abs().sum() > 0
    assert layer.lora_B["default"].weight.grad.abs().sum() > 0


def test_qat_is_better_than_quantizing_afterwards() -> None:
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    expected = small()(x).detach()

    def train(model: nn.Module) -> float:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=300)
        for _ in range(300):
            loss = (model(x) - expected).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        quantized = quantized_copy(unquantized(model), "int4", ["0", "2"], torch.float32)
        return float((quantized(x).float() - expected).square().mean())

    def unquantized(model: nn.Module) -> nn.Sequential:
        copy = small()
        copy.load_state_dict(model.state_dict())
        return copy

    qat_model = small()
    prepare_qat(qat_model, "int4", [])
    assert train(qat_model) < 0.7 * train(small())
