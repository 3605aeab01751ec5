"""A run whose worker is killed again and again, and one that nothing happened to: the same?

Kills are SIGKILL, at random moments that a seed decides: while steps are made, and in the middle of
a checkpoint's write. Compared bit by bit: weights, optimizer state, averages, loss curve, result.
"""

from __future__ import annotations

import argparse
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
from .small_run import small_run
from .timing import environment

log = logging.getLogger(__name__)

LONGEST = 600
"""Seconds that a worker may take to its moment."""


@dataclass(frozen=True)
class Moment:
    """When to kill: after a step, and then, if `writing`, in a checkpoint's write."""

    step: int
    writing: bool


@dataclass(frozen=True)
class Killed:
    """What a kill left: the steps that were told, those that are saved, and an unfinished file."""

    told: int
    saved: int
    torn: str

    def __str__(self) -> str:
        torn = f", in the middle of writing {self.torn}" if self.torn else ""
        return f"killed after step {self.told}{torn}; goes on from {self.saved}"


def main() -> None:
    """Read the command line, train both runs, and say in what they differ; exit code 1 if so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=("lora", "dora", "full"), default="full")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--ema", type=float, default=0.9)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = {
        "steps": options.steps,
        "method": options.method,
        "optimizer": options.optimizer,
        "ema": options.ema,
        "checkpoint_every": 4,
        "batch_size": 2,
    }
    log.info(environment(torch.device("cpu")))
    log.info("the sandbox, %s, %s, ema %g, %d steps", *list(settings.values())[1:4], options.steps)
    with tempfile.TemporaryDirectory() as name:
        whole = small_run(SANDBOX, Path(name), "whole", **settings)
        finish(whole)
        parts = small_run(SANDBOX, Path(name), "parts", **settings)
        for moment in moments(options.seed, options.kills, options.steps):
            log.info("%s", kill(parts, moment))
        finish(parts)
        found = differences(parts, whole)
        count = len(load_file(_newest(whole)))
    log.info(
        "of %d tensors, the loss curve and the result differ: %s", count, ", ".join(found) or "none"
    )
    sys.exit(bool(found))


def moments(seed: int, kills: int, steps: int) -> list[Moment]:
    """Draw moments in order, every second one in the middle of a write, from 5 to 90 % of a run."""
    source = random.Random(seed)  # noqa: S311
    chosen = sorted(source.sample(range(max(1, steps // 20), steps * 9 // 10), kills))
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
    """Train until a moment comes, kill the worker, and see that no checkpoint is torn.

    Raises RuntimeError when the worker ends before that.
    """
    follower = EventReader(run.events, from_end=True)
    told, deadline = 0, time.monotonic() + LONGEST
    worker = start(run)
    try:
        while worker.poll() is None and time.monotonic() < deadline:
            told = max([told, *(e.step for e in follower.read_new() if e.kind == "step")])
            if told < moment.step:
                time.sleep(0.001)
            elif not moment.writing or _stopped_in_a_write(run, worker):
                break
        else:
            raise RuntimeError(f"{moment} did not come: see {run.log}.")
    finally:
        worker.kill()
        worker.wait()
    for file in checkpoints.by_step(run.checkpoints).values():
        load_file(file)
    return Killed(told, run.steps_saved(), ", ".join(_drafts(run)))


def _stopped_in_a_write(run: RunFolder, worker: subprocess.Popen[bytes]) -> bool:
    """Stop the worker when a checkpoint has begun to be written; False when it was too late."""
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
    """The unfinished files of checkpoints, with their sizes."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(run.checkpoints) as entries:
        for entry in entries:
            if entry.name.endswith(".tmp"):
                found.append(f"{entry.name} ({entry.stat().st_size:,} bytes)")
    return found


def differences(run: RunFolder, other: RunFolder) -> list[str]:
    """Name what is not the same, to the last bit, in two runs that are finished."""
    pairs = [(_newest(run), _newest(other))]
    if run.lora.exists():
        pairs.append((run.lora, other.lora))
    pairs += [
        (file, other.model / file.relative_to(run.model))
        for file in sorted(run.model.rglob("*.safetensors"))
    ]
    found = [name for mine, theirs in pairs for name in _different_tensors(mine, theirs)]
    if _rest(pairs[0][0]) != _rest(pairs[0][1]):
        found.append("the optimizer's numbers")
    if loss_curve(run.events) != loss_curve(other.events):
        found.append("the loss curve")
    return found


def _different_tensors(file: Path, other: Path) -> list[str]:
    mine, theirs = load_file(file), load_file(other)
    return [
        f"{file.name}: {key}"
        for key in sorted(mine.keys() | theirs.keys())
        if key not in mine or key not in theirs or not torch.equal(mine[key], theirs[key])
    ]


def _rest(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as held:
        return held.metadata() or {}


def _newest(run: RunFolder) -> Path:
    newest = checkpoints.latest(run.checkpoints)
    if newest is None:
        raise RuntimeError(f"The run {run.path} has no checkpoint: see {run.log}.")
    return newest
