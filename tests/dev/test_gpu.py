"""`python -m dev gpu` measures every row, here on small models and a CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.bench import gpu
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.main()
