"""A model computes on a device that holds only some of its weights."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import CPU, DEVICE, pretend_gpu
from kosmos_dreambooth.quantize.quantize_weights import quantized_copy
from kosmos_dreambooth.shared import stream_weights as module
from kosmos_dreambooth.shared.stream_weights import stream_weights
from torch import nn


def build() -> nn.Sequential:
    """An embedding, wide layers, a norm with a buffer, and tied output weights."""
    torch.manual_seed(0)
    embedding, output = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False)
    output.weight = embedding.weight
    wide = [nn.Linear(128, 128) for _ in range(4)]
    layers = [nn.Linear(32, 128), *wide, nn.Linear(128, 32), nn.LayerNorm(32)]
    return nn.Sequential(embedding, *layers, output).eval()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_BYTES", 1000)


def test_streamed_weights_give_the_same_with_less_memory() -> None:
    model, ids = build(), torch.arange(10)
    with torch.no_grad():
        expected = model(ids)
        total = sum(weight.nbytes for weight in model.parameters())
        with pretend_gpu(total // 2) as gpu:
            streamed = stream_weights(model, DEVICE)
            resident = gpu.used()
            output = model(ids.to(DEVICE))
            assert output.device == DEVICE
            torch.testing.assert_close(output.cpu(), expected)
            del output
            assert gpu.used() == resident
            assert streamed > 250_000
            assert next(model.parameters()).device == DEVICE
            assert model[2].weight.device == CPU

            stream_weights(model.to(CPU), CPU)
            torch.testing.assert_close(model(ids), expected)
            assert gpu.used() == 0


def test_a_layer_keeps_its_weights_when_its_forward_pass_fails() -> None:
    model = build()
    with pretend_gpu():
        stream_weights(model, DEVICE)
        own = model[2].weight
        with pytest.raises(RuntimeError):
            model[2](torch.ones(3, 7, device=DEVICE))
        assert model[2].weight is own


@pytest.mark.parametrize("small_bytes", [2**20, 1000], ids=["moved", "streamed"])
def test_quantized_weights_are_moved_and_streamed(
    small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_BYTES", small_bytes)
    meta = torch.device("meta")  # torchao's tensors cannot be on the pretend GPU
    model = nn.Sequential(nn.Linear(8, 128), nn.Linear(128, 128))
    quantized = quantized_copy(model, "int8", ["1"], torch.bfloat16)
    streamed = stream_weights(quantized, meta)
    assert (streamed > 0) is (small_bytes == 1000)
    assert quantized(torch.ones(2, 8, dtype=torch.bfloat16, device=meta)).device == meta
    assert quantized[1].weight.qdata.device == (CPU if streamed else meta)
