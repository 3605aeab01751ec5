"""Compare, bit by bit, a run whose worker is killed again and again with an undisturbed one.

Kills are SIGKILL, at random moments from a seed: between steps, and while a checkpoint is written.
Compared are weights, optimizer state, averages, loss curve and result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ...sandbox import DIFFUSION as SANDBOX
from ...training.run import checkpoints
from ...training.run.events import EventReader, loss_curve
from ...training.run.run_folder import RunFolder
from ...training.run.worker_process import WORKER
from ..command_line import parse_arguments
from .small_run import small_run
from .timing import environment

log = logging.getLogger(__name__)

METHODS = ("lora", "dora", "full")
TIMEOUT = 600
"""Seconds that a worker may take until it is killed."""


@dataclass(frozen=True)
class Moment:
    """When to kill: after a step, and if `writing`, while the next checkpoint is written."""

    step: int
    writing: bool


@dataclass(frozen=True)
class Killed:
    """State after a kill: the last reported step, the last saved step, and unfinished files."""

    reported: int
    saved: int
    unfinished: str

    def __str__(self) -> str:
        unfinished = f", while writing {self.unfinished}" if self.unfinished else ""
        return f"killed after step {self.reported}{unfinished}; resumes from {self.saved}"


def main() -> None:
    """Train both runs, and print what differs; exit code 1 if anything does."""
    options = parse_arguments(
        __doc__,
        steps=60,
        kills=5,
        seed=0,
        method={"choices": METHODS, "default": "full"},
        optimizer="adamw",
        ema=0.9,
    )
    settings = {
        "steps": options.steps,
        "method": options.method,
        "optimizer": options.optimizer,
        "ema": options.ema,
        "checkpoint_every": 4,
        "batch_size": 2,
    }
    log.info(environment())
    log.info("the sandbox, %s, %s, ema %g, %d steps", *list(settings.values())[1:4], options.steps)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = small_run(SANDBOX, Path(name), "undisturbed", **settings)
        finish(undisturbed)
        killed = small_run(SANDBOX, Path(name), "killed", **settings)
        for moment in moments(options.seed, options.kills, options.steps):
            log.info("%s", kill(killed, moment))
        finish(killed)
        names = differences(killed, undisturbed)
        count = len(load_file(_newest(undisturbed)))
    log.info(
        "of %d tensors, the loss curve and the result differ: %s", count, ", ".join(names) or "none"
    )
    sys.exit(bool(names))


def moments(seed: int, kills: int, steps: int) -> list[Moment]:
    """Draw sorted moments from 5 to 90 % of a run; every second one is during a write."""
    rng = random.Random(seed)  # noqa: S311
    chosen = sorted(rng.sample(range(max(1, steps // 20), steps * 9 // 10), kills))
    return [Moment(step, k % 2 == 1) for k, step in enumerate(chosen)]


def start(run: RunFolder) -> subprocess.Popen[bytes]:
    """Start a run's worker by its path, as a cluster does."""
    with run.log.open("ab") as log_file:
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(run.config)],
            stdout=log_file,
            stderr=subprocess.STDOUT,
        )


def finish(run: RunFolder) -> None:
    """Train a run to its end. Raises RuntimeError when its worker fails."""
    if start(run).wait() != 0:
        raise RuntimeError(f"The worker failed: see {run.log}.")


def kill(run: RunFolder, moment: Moment) -> Killed:
    """Train until a moment, kill the worker, and check that all checkpoints are valid.

    Raises RuntimeError when the worker ends before that.
    """
    reader = EventReader(run.events, from_end=True)
    reported, deadline = 0, time.monotonic() + TIMEOUT
    worker = start(run)
    try:
        while worker.poll() is None and time.monotonic() < deadline:
            reported = max([reported, *(e.step for e in reader.read_new() if e.kind == "step")])
            if reported < moment.step:
                time.sleep(0.001)
            elif not moment.writing or _stopped_while_writing(run, worker):
                break
        else:
            raise RuntimeError(f"The worker did not reach {moment}: see {run.log}.")
    finally:
        worker.kill()
        worker.wait()
    for file in checkpoints.by_step(run.checkpoints).values():
        load_file(file)
    return Killed(reported, run.steps_saved(), ", ".join(_drafts(run)))


def _stopped_while_writing(run: RunFolder, worker: subprocess.Popen[bytes]) -> bool:
    """Stop the worker while it writes a checkpoint; False if it writes none or has finished."""
    if not _drafts(run):
        return False
    worker.send_signal(signal.SIGSTOP)
    while psutil.Process(worker.pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
        time.sleep(0.0005)
    if _drafts(run):
        return True
    worker.send_signal(signal.SIGCONT)
    return False


def _drafts(run: RunFolder) -> list[str]:
    """Unfinished checkpoint files, with their sizes."""
    drafts = []
    with contextlib.suppress(FileNotFoundError), os.scandir(run.checkpoints) as entries:
        for entry in entries:
            if entry.name.endswith(".tmp"):
                drafts.append(f"{entry.name} ({entry.stat().st_size:,} bytes)")
    return drafts


def differences(run: RunFolder, other: RunFolder) -> list[str]:
    """Name everything that is not bit-identical in two finished runs."""
    pairs = [(_newest(run), _newest(other))]
    if run.lora.exists():
        pairs.append((run.lora, other.lora))
    pairs += [
        (file, other.model / file.relative_to(run.model))
        for file in sorted(run.model.rglob("*.safetensors"))
    ]
    names = [name for file, twin in pairs for name in _different_tensors(file, twin)]
    if _metadata(pairs[0][0]) != _metadata(pairs[0][1]):
        names.append("the checkpoint's metadata")
    if loss_curve(run.events) != loss_curve(other.events):
        names.append("the loss curve")
    return names


def _different_tensors(file: Path, other: Path) -> list[str]:
    a, b = load_file(file), load_file(other)
    return [
        f"{file.name}: {key}"
        for key in sorted(a.keys() | b.keys())
        if key not in a or key not in b or not torch.equal(a[key], b[key])
    ]


def _metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as header:
        return header.metadata() or {}


def _newest(run: RunFolder) -> Path:
    newest = checkpoints.latest(run.checkpoints)
    if newest is None:
        raise RuntimeError(f"The run {run.path} has no checkpoint: see {run.log}.")
    return newest
