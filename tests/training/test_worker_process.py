"""Runs in worker processes that finish, are stopped, killed and resumed."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.run import checkpoints
from kosmos_dreambooth.training.run.events import Event, loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.run_results import load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from kosmos_dreambooth.training.run.worker_process import WORKER, Worker
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def work(run: RunFolder, react: Callable[[Event, int], bool] = lambda event, pid: False) -> int:
    """Train in a worker until `react` returns True; return the process id."""
    with Worker(run) as worker:
        for event in worker.events():
            if event is not None and react(event, worker.pid):
                break
    return worker.pid


def send(number: int, at: int, kind: str = "step") -> Callable[[Event, int], bool]:
    """Return a reaction that sends the worker a signal when a kind of event is at a step."""

    def react(event: Event, pid: int) -> bool:
        if event.kind == kind and event.step >= at:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return False

    return react


def state(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return the weights and the optimizer's state that a run ended with."""
    path = checkpoints.latest(run.checkpoints)
    assert path is not None
    return load_file(path)


@pytest.fixture(scope="module")
def reference(make_run, tmp_path_factory) -> RunFolder:
    """An uninterrupted run with preview images."""
    run = make_run(tmp_path_factory.mktemp("runs"), "reference", preview_every=6)
    work(run)
    return run


def test_a_finished_run_has_its_result_curve_and_previews(reference: RunFolder) -> None:
    assert reference.is_finished()
    assert len(loss_curve(reference.events)) == 12
    assert [path.name for path in sorted(reference.previews.iterdir())] == [
        "00000006.png",
        "00000012.png",
    ]
    base = load_diffusion(Path(read_config(reference.config).base))
    trained = load_result(reference, torch.float32)
    changed = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(trained.unet.parameters(), base.unet.parameters(), strict=True)
    ]
    assert any(changed)
    assert trained.loras == (str(reference.lora),)
    assert not list(reference.path.rglob("*.tmp"))


def test_a_killed_run_raises_one_sentence(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(UserError, match="Queueing again") as raised:
        work(run, send(signal.SIGKILL, at=4, kind="checkpoint"))
    assert run.steps_saved() in (4, 8)  # the signal arrives a moment after the checkpoint
    assert f"resumes at step {run.steps_saved()}" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(run.log) in str(raised.value)


def test_leaving_before_training_begins_leaves_no_process(make_run, tmp_path: Path) -> None:
    pid = work(make_run(tmp_path), lambda event, pid: event.kind == "phase")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_that_was_reached(make_run, tmp_path: Path, number: int) -> None:
    run = make_run(tmp_path, steps=5000, checkpoint_every=1000)
    with pytest.raises(UserError, match="resumes at step"):
        work(run, send(number, at=2))
    assert len(loss_curve(run.events)) == run.steps_saved() >= 2


STARTER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from as_package import load
run = load("training.run.run_folder").RunFolder(Path(sys.argv[2]))
with load("training.run.worker_process").Worker(run) as worker:
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def test_the_worker_saves_and_stops_when_its_parent_is_killed(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=5000, checkpoint_every=1000)
    root = str(WORKER.parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, root, str(run.path)], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        worker = int(starter.stdout.readline())
        wait_until(lambda: bool(loss_curve(run.events)) if run.events.exists() else False, 60)
        starter.kill()
    wait_until(lambda: not is_alive(worker), 20)
    assert run.steps_saved() >= 1


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Timed out after {seconds} seconds."
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_full_disk_keeps_the_last_checkpoint(
    make_run, reference: RunFolder, tmp_path: Path
) -> None:
    shutil.copytree(reference.path, tmp_path / "run")
    run = make_run(tmp_path, steps=16)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # less than a checkpoint
    try:
        with pytest.raises(UserError, match="free disk space") as raised:
            work(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "resumes at step 12" in str(raised.value)
    saved = state(reference)
    assert all(torch.equal(saved[key], value) for key, value in state(run).items())


def test_a_nan_loss_stops_the_run_with_advice(make_run, tmp_path: Path) -> None:
    settings = {"learning_rate": 1.0, "warmup": 0, "method": "full", "checkpoint_every": 1}
    run = make_run(tmp_path, steps=400, **settings)
    with pytest.raises(UserError, match=r"became NaN after step .* is kept\. Lower the learning"):
        train(run, StopRequest())
    assert all(value.isfinite().all() for key, value in state(run).items() if "weights" in key)


def test_the_result_of_the_method_full_loads(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, method="full", train_text_encoder=True, steps=3)
    assert train(run, StopRequest())
    base = load_diffusion(Path(read_config(run.config).base))
    trained = load_result(run, torch.float32)
    assert trained.scheduler_config["prediction_type"] == "v_prediction"
    assert trained.scheduler_config["rescale_betas_zero_snr"] is True
    for part in ("unet", "text_encoder"):
        ours, theirs = getattr(trained, part), getattr(base, part)
        assert any(
            not torch.equal(a, b)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        )
    for ours, theirs in zip(trained.vae.parameters(), base.vae.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("encoder", [True, False])
def test_the_text_encoder_is_trained_only_with_train_text_encoder(
    make_run, tmp_path: Path, encoder: bool
) -> None:
    run = make_run(tmp_path, train_text_encoder=encoder, steps=2)
    assert train(run, StopRequest())
    assert any(key.startswith("lora_te_") for key in load_file(run.lora)) is encoder
