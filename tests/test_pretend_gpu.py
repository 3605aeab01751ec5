"""The pretend GPU of the tests: what it rejects, and what it counts."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint


def test_operations_stay_on_the_device_and_do_not_mix_devices() -> None:
    with pretend_gpu():
        here, there = torch.ones(2, 3), torch.ones(2, 3).to("cuda")
        assert (there.device, here.device) == (DEVICE, torch.device("cpu"))
        for value in (
            there + 1,
            there.T,
            torch.zeros_like(there),
            there.float(),
            there.chunk(2)[0],
        ):
            assert value.device == DEVICE
        assert (there * torch.tensor(2.0)).device == DEVICE
        assert (there + torch.arange(3, device="cuda")).device == DEVICE
        assert (here + there.cpu()).device.type == "cpu"
        for mixed in (
            lambda: here + there,
            lambda: linear(there, here),
            lambda: torch.cat([here, there]),
            lambda: here[torch.tensor([0]).to("cuda")],
            lambda: torch.where(here > 0, there, there),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        assert there[torch.tensor([0])].device == DEVICE
        with pytest.raises(TypeError):
            there.numpy()


def test_a_generator_belongs_to_the_device_and_a_dtype_to_the_operation() -> None:
    with pretend_gpu():
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device="cuda", generator=torch.Generator())
        half = torch.ones(2, 2, dtype=torch.float16).to("cuda")
        with pytest.raises(RuntimeError, match="dtype"):
            linear(half, half.float())


def test_modules_move_with_gradients_and_copies_share_no_memory() -> None:
    with pretend_gpu():
        layer = torch.nn.Linear(3, 3)
        weight, before = layer.weight, layer.weight.detach()
        layer.to(DEVICE)
        assert layer.weight is weight
        assert isinstance(weight, torch.nn.Parameter)
        assert layer.weight.device == DEVICE
        with torch.no_grad():
            layer.weight.zero_()
        assert before.any()
        layer(torch.ones(1, 3, device=DEVICE)).sum().backward()
        assert layer.weight.grad.device == DEVICE
        torch.optim.AdamW(layer.parameters(), lr=0.1).step()
        assert layer.to("cpu").weight.any()


def test_what_is_computed_again_in_the_backward_pass_stays_on_the_device() -> None:
    with pretend_gpu():
        layer = torch.nn.Linear(3, 3).to(DEVICE)
        devices = []

        def forward(value: torch.Tensor) -> torch.Tensor:
            devices.append(layer(value).device)
            return layer(value).relu()

        value = torch.ones(1, 3, device=DEVICE)
        checkpoint(forward, value, use_reentrant=False).sum().backward()
        assert devices == [DEVICE, DEVICE]


def test_memory_is_counted_given_back_and_limited() -> None:
    with pretend_gpu(4000) as gpu:
        first = torch.ones(500, device=DEVICE)
        view = first[:100]
        assert gpu.used() == 2000
        with pytest.raises(torch.OutOfMemoryError):
            torch.ones(600, device=DEVICE)
        assert gpu.used() == 2000
        assert torch.cuda.mem_get_info() == (2000, 4000)
        del first
        assert gpu.used() == 2000
        del view
        torch.ones(900, device=DEVICE)
        assert gpu.used() == 0
        assert gpu.peak == 3600
