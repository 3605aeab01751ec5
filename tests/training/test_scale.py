"""A run does not depend on how many processes share it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kosmos_dreambooth.training.events import Follower, loss_curve
from kosmos_dreambooth.training.run import WORKER

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo's processes of POSIX")


def test_two_processes_learn_what_one_does(make_run, tmp_path: Path) -> None:
    """The worker is started by its path, as on a cluster."""
    runs = []
    for name, devices in (("one", 1), ("two", 2)):
        run = make_run(tmp_path, name, devices=devices, steps=50, batch_size=2, resume=False)
        subprocess.run([sys.executable, str(WORKER), str(run.config)], check=True, timeout=300)
        runs.append(run)
    one, two = runs
    assert loss_curve(two.events) == pytest.approx(loss_curve(one.events), rel=1e-5)
    assert two.is_finished()
    kinds = [event.kind for event in Follower(two.events).new()]
    assert kinds.count("step") == 50
    assert kinds.count("finished") == 1
