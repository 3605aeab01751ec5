"""Batches that a second thread prepares: the same bits, its errors, and where it is used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.bench.resume_equality import differences
from kosmos_dreambooth.training.dreambooth import dreambooth_module, prefetch
from kosmos_dreambooth.training.dreambooth.prefetch import Prefetcher, spare_device, split_threads
from kosmos_dreambooth.training.dreambooth.prior_teacher import PriorTeacher
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from tests.training.conftest import InlineBatches, RunMaker, trained

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_values_come_one_ahead_in_order_from_a_second_thread() -> None:
    computed: list[int] = []
    threads: set[threading.Thread] = set()

    def compute(index: int) -> int:
        computed.append(index)
        threads.add(threading.current_thread())
        return index * index

    prefetcher = Prefetcher(compute, 5, 1)
    assert [prefetcher.batch(k) for k in (2, 2, 3, 4)] == [4, 4, 9, 16]
    prefetcher.close()
    assert computed == [2, 3, 4]
    (thread,) = threads
    assert thread.name.startswith("prefetch")
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "settings",
    [{"accumulation": 2}, {"method": "full", "ema": 0.9}, {"precision": "bf16", "bucket_step": 4}],
    ids=["lora", "full", "bf16"],
)
def test_a_run_is_the_same_to_the_last_bit(
    make_run: RunMaker, tmp_path: Path, monkeypatch, set_threads, settings: dict[str, object]
) -> None:
    set_threads(2)
    used: list[str] = []
    predict = PriorTeacher.predict

    def record(self, *inputs):
        used.append(threading.current_thread().name)
        return predict(self, *inputs)

    monkeypatch.setattr(PriorTeacher, "predict", record)
    ahead = trained(make_run, tmp_path / "ahead", stops=1, **settings)
    assert torch.get_num_threads() == 2
    assert all(name.startswith("prefetch") for name in used)
    used.clear()
    monkeypatch.setattr(dreambooth_module, "Prefetcher", InlineBatches)
    plain = trained(make_run, tmp_path / "plain", stops=1, **settings)
    assert set(used) == {threading.current_thread().name}
    assert differences(ahead, plain) == []


def test_an_error_of_the_second_thread_ends_the_run_with_its_message(
    make_run: RunMaker, tmp_path: Path, monkeypatch, set_threads
) -> None:
    def fail(self, *inputs):
        raise RuntimeError("the teacher fell ill")

    set_threads(2)
    run = make_run(tmp_path)
    monkeypatch.setattr(PriorTeacher, "predict", fail)
    with pytest.raises(RuntimeError, match="fell ill"):
        train(run, StopRequest())


def test_the_teacher_s_copy_computes_on_another_device(
    make_run: RunMaker, tmp_path: Path, monkeypatch
) -> None:
    """On a CPU, whose index 0 stands for a second device."""
    other, plain = torch.device("cpu", 0), trained(make_run, tmp_path / "plain")
    monkeypatch.setattr(dreambooth_module, "spare_device", lambda *_: other)
    monkeypatch.setattr(dreambooth_module, "split_threads", lambda total: (total, total))
    devices: list[torch.device | None] = []
    predict = PriorTeacher.predict

    def record(self, *inputs):
        devices.append(self._device)
        return predict(self, *inputs)

    monkeypatch.setattr(PriorTeacher, "predict", record)
    # The last bits differ at times on an Intel CPU; the cause is not known.
    losses = loss_curve(trained(make_run, tmp_path / "other").events)
    assert losses == pytest.approx(loss_curve(plain.events), rel=1e-4)
    assert set(devices) == {other}


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch, set_threads) -> None:
    set_threads(2)
    small, large = 5_000_000, 860_000_000
    assert spare_device(CPU, 1, small) == CPU
    assert spare_device(CPU, 1, large) is None
    set_threads(1)
    assert spare_device(CPU, 1, small) is None

    names, free = ["H100", "H100", "T4"], 80e9
    cuda = prefetch.torch.cuda
    monkeypatch.setattr(cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(
        cuda, "get_device_name", lambda gpu: names[gpu if isinstance(gpu, int) else gpu.index]
    )
    monkeypatch.setattr(cuda, "mem_get_info", lambda gpu: (free, 80e9))
    assert spare_device(GPU, 1, large) == torch.device("cuda", 1)
    assert spare_device(GPU, 2, large) is None
    assert spare_device(GPU, 3, large) is None
    free = 5e9
    assert spare_device(GPU, 1, large) is None


def test_threads_are_divided() -> None:
    assert [split_threads(n) for n in (2, 4, 8, 16)] == [(1, 1), (3, 1), (6, 2), (12, 4)]
