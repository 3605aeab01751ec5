"""A run that is killed repeatedly has the result of an uninterrupted run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.bench.resume_equality import differences, kill, moments
from kosmos_dreambooth.training.dreambooth import dreambooth_module
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train

from tests.training.conftest import InlineBatches

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def test_a_killed_run_is_bit_identical(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_threads
) -> None:
    """The second kill interrupts the writing of a checkpoint, which leaves an incomplete file.

    The killed workers prefetch batches; the undisturbed run and the rest do not.
    """
    settings = {"steps": 24, "checkpoint_every": 2, "ema": 0.9}
    whole = make_run(tmp_path, "whole", **settings)
    set_threads(2)
    monkeypatch.setattr(dreambooth_module, "Prefetcher", InlineBatches)
    train(whole, StopRequest())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    parts = make_run(tmp_path, "parts", **settings)
    killed = [kill(parts, moment) for moment in moments(1, 2, 24)]
    assert [bool(one.unfinished) for one in killed] == [False, True]
    assert train(parts, StopRequest())
    assert differences(parts, whole) == []
    assert not list(parts.path.rglob("*.tmp"))
