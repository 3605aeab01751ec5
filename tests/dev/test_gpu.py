"""`python -m dev gpu` measures every row, here on small models and a CPU."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.bench import gpu, training_speed
from kosmos_dreambooth.dev.bench.training_speed import Measurement
from kosmos_dreambooth.shared.errors import UserError


def test_every_row_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["gpu", "--cpu", "--tiny", "--out", str(page)])
    gpu.main()
    text = page.read_text(encoding="utf-8")
    assert "## Left out" not in text
    for row in (
        *(f"| {dtype}, {batch} images |" for dtype in gpu.CAPTION_DTYPES for batch in (1, 2)),
        *("one pass against two |", "diffusers' pipeline |", "class images, against a loop |"),
        *(f"| {row[0]} {row[1]}, {row[2]} pixels |" for row in gpu.TRAINING_ROWS if row[2] == 512),
    ):
        assert text.count(row) == 1, row


def test_rows_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = gpu.Rehearsal(torch.device("cpu"), tiny=False, end=float("inf"), folder=tmp_path)
    monkeypatch.setattr(gpu.Rehearsal, "memory", 8.0)

    def fails() -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    rows = [
        gpu.Row("large", 64, 1, lambda: ["1"]),
        gpu.Row("larger than thought", 6, 1, fails),
        gpu.Row("broken", 6, 1, lambda: [str(1 // 0)]),
        gpu.Row("small", 6, 1, lambda: ["2"]),
    ]
    (line,) = run.rows(rows)
    assert line.startswith("| small | 2 |")
    assert run.left_out == [
        "- large: needs about 64 GiB of memory, of 8",
        "- larger than thought: CUDA out of memory. Tried to allocate",
    ]
    assert run.failed == ["- broken: ZeroDivisionError: integer division or modulo by zero"]
    run.end = 0.0
    assert list(run.rows(rows[-1:])) == []
    assert "needs about 1 s" in run.left_out[-1]


@pytest.mark.parametrize(
    ("memory", "fitting", "instead"),
    [
        (8, ["sd15 lora, 512 pixels"], 0),
        (12, ["sd15 lora, 512 pixels", "sdxl lora, 256 pixels"], 1),
        (80, [f"{row[0]} {row[1]}, {row[2]} pixels" for row in gpu.TRAINING_ROWS], 0),
    ],
)
def test_a_small_card_takes_smaller_sizes(
    memory: float, fitting: list[str], instead: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(gpu.Rehearsal, "memory", memory)
    run = gpu.Rehearsal(torch.device("cpu"), tiny=False, end=float("inf"), folder=tmp_path)
    rows = gpu.training_rows(run)
    assert [row.name for row in rows if run._obstacle(row) is None] == fitting
    assert len(run.left_out) == instead
    assert len(rows) == len(gpu.TRAINING_ROWS)


def test_a_trainer_without_memory_leaves_the_other_one_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    task = training_speed.Task("lora", tmp_path, tmp_path, steps=3, device="cpu")
    failed, measured = Measurement(), Measurement([2.0], peak=2**30)
    failed.add(fails, time.perf_counter, task)
    run = gpu.Rehearsal(torch.device("cpu"), tiny=True, end=float("inf"), folder=tmp_path)
    monkeypatch.setattr(gpu, "_base", lambda *_: tmp_path)
    for ours, theirs in ((measured, failed), (failed, measured)):
        monkeypatch.setattr(gpu, "measure_training", lambda *_, both=(ours, theirs): both)
        lines = list(run.rows(gpu.training_rows(run)[:1]))
        assert all("| 2.00 | out of memory |" in line for line in lines)
    assert not lines
    assert "Ours ran out of memory" in run.left_out[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.main()
