"""A run does not depend on how many processes share it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kosmos_dreambooth.training.run.events import loss_curve, read_events
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from kosmos_dreambooth.training.run.worker_process import WORKER

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo's processes of POSIX")


def test_two_processes_train_like_one(make_run, tmp_path: Path) -> None:
    """The worker is started by its path, as on a cluster."""
    runs = []
    for name, devices in (("one", 1), ("two", 2)):
        run = make_run(tmp_path, name, devices=devices, steps=50, batch_size=2, resume=False)
        subprocess.run([sys.executable, str(WORKER), str(run.config)], check=True, timeout=300)
        runs.append(run)
    one, two = runs
    assert loss_curve(two.events) == pytest.approx(loss_curve(one.events), rel=1e-5)
    assert two.is_finished()
    kinds = [event.kind for event in read_events(two.events)]
    assert kinds.count("step") == 50
    assert kinds.count("finished") == 1


def under_torchrun(run: RunFolder, node: int, port: int) -> tuple[list[str], dict[str, str]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    place = ["--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return [*launcher, *place, str(WORKER), str(run.config)], {}


def under_slurm(run: RunFolder, node: int, port: int) -> tuple[list[str], dict[str, str]]:
    environment = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "dreambooth",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(node),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(port),
    }
    return [sys.executable, str(WORKER), str(run.config)], environment


@pytest.mark.parametrize(
    ("launch", "optimizer"), [(under_torchrun, "adamw"), (under_slurm, "adafactor")]
)
def test_a_run_of_two_computers_is_resumed_on_one(
    make_run, tmp_path: Path, launch, optimizer: str
) -> None:
    """Each has a shard of the optimizer's state, and the checkpoint has all of it."""
    # Tokens that occur only in prior preservation prompts have a zero gradient at first, except for
    # rounding errors, which depend on the number of processes and which Adam scales up.
    settings = {"method": "full", "schedule": "constant", "optimizer": optimizer}
    settings |= {"class_scenes": 0.0, "other_words": 0.0}
    alone = make_run(tmp_path, "alone", steps=6, **settings)
    assert train(alone, StopRequest())
    shared = make_run(tmp_path, "shared", steps=3, nodes=2, strategy="zero", **settings)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = [launch(shared, node, port) for node in range(2)]
    workers = [
        subprocess.Popen(command, env=os.environ | environment) for command, environment in started
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    assert shared.is_finished()
    assert make_run(tmp_path, "shared", steps=6, **settings) == shared
    assert train(shared, StopRequest())
    assert loss_curve(shared.events) == pytest.approx(loss_curve(alone.events), rel=1e-5)
