"""What is felt in training is what quantizing does afterwards."""

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
def test_the_rounding_is_that_of_the_format(name: str) -> None:
    aware, x = small(), torch.randn(7, 64)
    prepare_qat(aware, name, [])
    assert aware.state_dict().keys() == small().state_dict().keys()
    made = quantized_copy(small(), name, ["0", "2"], torch.float32)
    off = (made(x).float() - small()(x)).norm()
    tolerance = 0.02 if isinstance(made[0], Int4Linear) else 1e-4  # 4 bits are scaled in bfloat16
    assert (aware(x) - made(x)).norm() < tolerance * small()(x).norm()
    assert (aware(x) - made(x)).norm() < 0.2 * off
    with fake_quantization_disabled(aware):
        assert torch.equal(aware(x), small()(x))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_with_an_adapter_both_are_rounded_together(name: str) -> None:
    aware, x = small(), torch.randn(7, 64)
    prepare_qat(aware, name, [])
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["0"]), aware)
    include_adapters(aware)
    layer = aware[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=0.1)
    merged = small()
    with torch.no_grad():
        merged[0].weight += layer.get_delta_weight("default")
    wanted = small()
    wanted[0].weight = merged[0].weight
    prepare_qat(wanted, name, [])
    assert torch.allclose(aware(x), wanted(x), atol=1e-5)
    with fake_quantization_disabled(aware):
        assert torch.allclose(aware(x), merged(x), atol=1e-5)
    loss = aware(x).square().sum()
    loss.backward()
    assert layer.lora_A["default"].weight.grad.abs().sum() > 0
    assert layer.lora_B["default"].weight.grad.abs().sum() > 0


def test_training_with_the_rounding_is_better_than_rounding_afterwards() -> None:
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    wanted = small()(x).detach()

    def train(model: nn.Module) -> float:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=300)
        for _ in range(300):
            loss = (model(x) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        made = quantized_copy(model_of(model), "int4", ["0", "2"], torch.float32)
        return float((made(x).float() - wanted).square().mean())

    def model_of(model: nn.Module) -> nn.Sequential:
        plain = small()
        plain.load_state_dict(model.state_dict())
        return plain

    aware = small()
    prepare_qat(aware, "int4", [])
    assert train(aware) < 0.7 * train(small())
