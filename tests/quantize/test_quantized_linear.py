"""Our layers compute what torchao's weights say, on every path that they take."""

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
def test_eight_bits_give_what_torchao_gives(name: str, dtype: torch.dtype, count: int) -> None:
    (made,) = quantized_copy(layer(64, 96), name, ["0"], dtype)
    assert isinstance(made, Int8Linear)
    x = torch.randn(2, count, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = nn.functional.linear(x, made.weight, made.bias)  # torchao's own
    given = made(x)
    assert given.dtype == dtype
    assert given.shape == (2, count, 96)
    assert torch.allclose(given.float(), wanted.float(), atol=0.05, rtol=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 40), st.booleans())
def test_eight_bits_take_every_size(columns: int, rows: int, count: int, bias: bool) -> None:
    original = layer(16 * columns, 16 * rows, bias=bias)
    x = torch.randn(count, 16 * columns)
    for name in ("int8", "int8 dynamic"):
        for dtype in (torch.float32, torch.bfloat16):
            made = quantized_copy(original, name, ["0"], dtype)
            difference = made(x.to(dtype)).float() - original(x)
            assert difference.abs().max() < 0.1


def test_sides_that_no_kernel_suits_go_torchaos_own_way() -> None:
    original = layer(24, 40)
    made = quantized_copy(original, "int8", ["0"])  # as in a file of another program
    assert type(made[0]) is nn.Linear
    x = torch.randn(3, 24)
    assert (made(x) - original(x)).abs().max() < 0.05
    assert not select_layers(original, "int8", []).quantized


def test_four_bits_are_the_same_numbers_in_both_packings() -> None:
    made = quantized_copy(layer(96, 64), "int4", ["0"])
    (part,) = made
    assert isinstance(part, Int4Linear)
    again = to_cpu_int4(to_portable_int4(part.weight))
    assert torch.equal(again.qdata, part.weight.qdata)
    assert torch.equal(again.scale_and_zero, part.weight.scale_and_zero)
    x = torch.randn(5, 96)
    assert made(x).dtype == torch.float32
    assert (made(x) - layer(96, 64)(x)).abs().max() < 0.3


@pytest.mark.parametrize("name", ["int8", "int8 dynamic", "int4"])
def test_gradients_are_those_of_the_weights(name: str) -> None:
    made = quantized_copy(layer(64, 32), name, ["0"], torch.float32)
    x = torch.randn(3, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(made(x).sum(), x)
    wanted = layer(64, 32)[0].weight.sum(0).expand(3, -1)
    assert (gradient - wanted).norm() / wanted.norm() < 0.15
    assert torch.allclose(made(x), made(x.detach()), atol=0.1)


@pytest.mark.parametrize("name", ["int8", "int8 dynamic", "int4", "int4 awq"])
def test_ordinary_weights_come_out_again(name: str) -> None:
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    made = quantized_copy(
        layer(64, 32), name, ["0"], torch.float32, {"0": x} if "awq" in name else None
    )
    plain = dequantize(made)
    assert type(plain[0]) is nn.Linear
    assert type(plain[0].weight) is nn.Parameter
    assert is_quantized(made)
    again = plain(x.to(plain[0].weight.dtype)).float()
    assert (again - made(x)).norm() < 0.02 * made(x).norm()
    assert dequantize(plain) is plain


def test_layers_are_rounded_for_what_they_are_given() -> None:
    original = layer(64, 96)
    large = torch.ones(64)
    large[::16] = 40  # a few columns that meet large inputs
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(1)) * large
    with record_layer_inputs(original, ["0"]) as inputs:
        original(x[:100])
        original(x[100:])
    assert inputs["0"].shape == (200, 64)
    off = [
        (quantized_copy(original, name, ["0"], torch.float32, given)(x) - original(x)).norm()
        for name, given in (("int4", None), ("int4 awq", inputs))
    ]
    assert off[1] < 0.6 * off[0]


def test_of_many_rows_some_of_all_are_kept() -> None:
    model = layer(16, 16)
    with record_layer_inputs(model, ["0"]) as inputs:
        for number in range(10):
            model(torch.full((4, 300, 16), float(number)))
    rows = inputs["0"]
    assert len(rows) == MAX_ROWS
    assert 0.05 * MAX_ROWS < (rows[:, 0] == 9).sum() < 0.2 * MAX_ROWS
    assert not model[0]._forward_pre_hooks


def test_sides_that_do_not_suit_four_bits_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 40))
    taken = select_layers(model, "int4", [])
    assert taken.quantized == ("0",)
    assert taken.left == ("1",)


def test_eight_bits_take_memory_that_begins_anywhere() -> None:
    (made,) = quantized_copy(layer(64, 96), "int8", ["0"], torch.bfloat16)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = made(x)
    elsewhere = torch.empty(5 * 64 + 1, dtype=torch.bfloat16)[1:].view(5, 64).copy_(x)
    assert torch.equal(made(elsewhere), wanted)
    whole = made.weight.qdata
    made.weight.qdata = torch.empty(96 * 64 + 8, dtype=torch.int8)[8:].view(96, 64).copy_(whole)
    assert torch.allclose(made(x).float(), wanted.float(), atol=0.05, rtol=0.02)
