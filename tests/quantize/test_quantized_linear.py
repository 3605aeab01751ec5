"""The fast linear layers compute the same values as torchao, on every code path."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.quantize.calibration import MAX_ROWS, record_layer_inputs
from kosmos_dreambooth.quantize.dequantize import dequantize
from kosmos_dreambooth.quantize.int4_packing import to_cpu_int4, to_portable_int4
from kosmos_dreambooth.quantize.quantize_weights import is_quantized, quantized_copy, select_layers
from kosmos_dreambooth.quantize.quantized_linear import Int4Linear, Int8Linear
from torch import nn


def layer(columns: int, rows: int, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(columns * 1000 + rows)
    return nn.Sequential(nn.Linear(columns, rows, bias=bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["int8", "int8 dynamic"])
@pytest.mark.parametrize("count", [1, 12, 13, 40])
def test_int8_equals_torchao(name: str, dtype: torch.dtype, count: int) -> None:
    (quantized,) = quantized_copy(layer(64, 96), name, ["0"], dtype)
    assert isinstance(quantized, Int8Linear)
    x = torch.randn(2, count, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = nn.functional.linear(x, quantized.weight, quantized.bias)  # torchao's kernel
    output = quantized(x)
    assert output.dtype == dtype
    assert output.shape == (2, count, 96)
    assert torch.allclose(output.float(), expected.float(), atol=0.05, rtol=0.02)


@settings(max_examples=25)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 40), st.booleans())
def test_int8_supports_every_size(columns: int, rows: int, count: int, bias: bool) -> None:
    original = layer(16 * columns, 16 * rows, bias=bias)
    x = torch.randn(count, 16 * columns)
    for name in ("int8", "int8 dynamic"):
        for dtype in (torch.float32, torch.bfloat16):
            quantized = quantized_copy(original, name, ["0"], dtype)
            difference = quantized(x.to(dtype)).float() - original(x)
            assert difference.abs().max() < 0.1


def test_unsupported_sizes_use_torchaos_kernel() -> None:
    original = layer(24, 40)
    quantized = quantized_copy(original, "int8", ["0"])  # as if loaded from another program's file
    assert type(quantized[0]) is nn.Linear
    x = torch.randn(3, 24)
    assert (quantized(x) - original(x)).abs().max() < 0.05
    assert not select_layers(original, "int8", []).quantized


def test_int4_values_are_equal_in_both_packings() -> None:
    quantized = quantized_copy(layer(96, 64), "int4", ["0"])
    (part,) = quantized
    assert isinstance(part, Int4Linear)
    repacked = to_cpu_int4(to_portable_int4(part.weight))
    assert torch.equal(repacked.qdata, part.weight.qdata)
    assert torch.equal(repacked.scale_and_zero, part.weight.scale_and_zero)
    x = torch.randn(5, 96)
    assert quantized(x).dtype == torch.float32
    assert (quantized(x) - layer(96, 64)(x)).abs().max() < 0.3


@pytest.mark.parametrize("name", ["int8", "int8 dynamic", "int4"])
def test_input_gradients_are_those_of_the_dequantized_weight(name: str) -> None:
    quantized = quantized_copy(layer(64, 32), name, ["0"], torch.float32)
    x = torch.randn(3, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantized(x).sum(), x)
    expected = layer(64, 32)[0].weight.sum(0).expand(3, -1)
    assert (gradient - expected).norm() / expected.norm() < 0.15
    assert torch.allclose(quantized(x), quantized(x.detach()), atol=0.1)


@pytest.mark.parametrize("name", ["int8", "int8 dynamic", "int4", "int4 awq"])
def test_dequantize_returns_ordinary_weights(name: str) -> None:
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    quantized = quantized_copy(
        layer(64, 32), name, ["0"], torch.float32, {"0": x} if "awq" in name else None
    )
    ordinary = dequantize(quantized)
    assert type(ordinary[0]) is nn.Linear
    assert type(ordinary[0].weight) is nn.Parameter
    assert is_quantized(quantized)
    output = ordinary(x.to(ordinary[0].weight.dtype)).float()
    assert (output - quantized(x)).norm() < 0.02 * quantized(x).norm()
    assert dequantize(ordinary) is ordinary


def test_awq_is_closer_than_int4_on_the_recorded_inputs() -> None:
    original = layer(64, 96)
    large = torch.ones(64)
    large[::16] = 40  # a few input columns are large
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(1)) * large
    with record_layer_inputs(original, ["0"]) as inputs:
        original(x[:100])
        original(x[100:])
    assert inputs["0"].shape == (200, 64)
    errors = [
        (quantized_copy(original, name, ["0"], torch.float32, recorded)(x) - original(x)).norm()
        for name, recorded in (("int4", None), ("int4 awq", inputs))
    ]
    assert errors[1] < 0.6 * errors[0]


def test_the_recorded_rows_are_a_sample_of_all_calls() -> None:
    model = layer(16, 16)
    with record_layer_inputs(model, ["0"]) as inputs:
        for number in range(10):
            model(torch.full((4, 300, 16), float(number)))
    rows = inputs["0"]
    assert len(rows) == MAX_ROWS
    assert 0.05 * MAX_ROWS < (rows[:, 0] == 9).sum() < 0.2 * MAX_ROWS
    assert not model[0]._forward_pre_hooks


def test_layers_of_unsuitable_size_are_skipped() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 40))
    selection = select_layers(model, "int4", [])
    assert selection.quantized == ("0",)
    assert selection.skipped == ("1",)


def test_int8_supports_unaligned_memory() -> None:
    (quantized,) = quantized_copy(layer(64, 96), "int8", ["0"], torch.bfloat16)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = quantized(x)
    unaligned = torch.empty(5 * 64 + 1, dtype=torch.bfloat16)[1:].view(5, 64).copy_(x)
    assert torch.equal(quantized(unaligned), expected)
    qdata = quantized.weight.qdata
    quantized.weight.qdata = (
        torch.empty(96 * 64 + 8, dtype=torch.int8)[8:].view(96, 64).copy_(qdata)
    )
    assert torch.allclose(quantized(x).float(), expected.float(), atol=0.05, rtol=0.02)
