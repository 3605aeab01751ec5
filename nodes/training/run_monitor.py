"""Follow a run in its worker process."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ...shared.errors import UserError
from ...shared.images import read_rgb, to_tensor
from ...training.config_yaml import read_config
from ...training.run import checkpoints as checkpoint
from ...training.run.events import Event, Follower
from ...training.run.loss_chart import Chart
from ...training.run.run_folder import RunFolder
from ...training.run.worker_process import Worker
from .. import host

RUNS = "dreambooth"
"""The folder below output/ that runs are kept in."""

PANEL = "kosmos_dreambooth.training"
"""The message that web/kosmos_dreambooth.js waits for."""


def finish(run: RunFolder) -> None:
    """Train a run to its end, unless it is there. Raises UserError when the disk is full."""
    if run.is_finished():
        return
    host.unload_all_models()
    try:
        _train(run, read_config(run.config).steps)
    except OSError as error:
        raise unwritable(run.path, error) from error


def unwritable(place: Path, error: OSError) -> UserError:
    """What to say when the disk does not take a run."""
    return UserError(
        f"The run in {place} could not be written ({error}): free some disk space, and queue again "
        "to go on."
    )


def _train(run: RunFolder, steps: int) -> None:
    """Show a run until it is finished; when this is left early, the worker saves and stops."""
    progress = host.Progress(steps)
    chart, news = Chart(steps), Follower(run.events)
    last: Event | None = None
    preview: torch.Tensor | None = None
    try:
        with Worker(run) as worker:
            for event in worker.events():
                if event is None:
                    if last is not None:
                        chart.take(news.new())
                        host.send_event(PANEL, shown(run, chart))
                        host.show_text(_status(chart))
                        progress.step(last.step, preview)
                        preview, last = None, None
                    host.check_interrupted()
                    continue
                last = event
                if event.kind == "preview":
                    preview = to_tensor(read_rgb(run.path / str(event.file)))
    finally:
        chart.take(news.new())
        host.send_event(PANEL, shown(run, chart))
    progress.step(steps, preview)


def _status(chart: Chart) -> str:
    """Say where a run is, in a line."""
    now = chart.as_numbers()
    where = f"step {now['step']} of {now['steps']}"
    if not now["seconds_left"]:
        return f"{where}, {now['state']}"
    left = timedelta(seconds=round(now["seconds_left"]))
    return f"{where}, loss {now['loss'][-1][1]:.4f}, {now['speed']:.1f} steps/s, {left} left"


def charted(run: RunFolder) -> dict[str, Any]:
    """Return what the panel shows of a run, from its folder alone."""
    chart = Chart(read_config(run.config).steps)
    chart.take(Follower(run.events).new())
    return shown(run, chart)


def shown(run: RunFolder, chart: Chart) -> dict[str, Any]:
    """Return a chart as the panel reads it.

    On top come the run's `name`, where its picture is found, each checkpoint's `step`, whether it
    is `kept` and, once EvaluateSubject has measured them, its scores; and the `best` one's step.
    """
    numbers = chart.as_numbers()
    sample = numbers["sample"] and host.address(run.path / numbers["sample"])
    kept = checkpoint.kept(run.checkpoints)
    judged = json.loads(run.scores.read_text(encoding="utf-8")) if run.scores.exists() else {}
    scores = {one["step"]: one for one in judged.get("checkpoints", ())}
    checkpoints = [
        {"step": step, "kept": step in kept, **scores.get(step, {})}
        for step in sorted({*kept, *scores})
    ]
    return {
        **numbers,
        "name": run.path.name,
        "sample": sample,
        "checkpoints": checkpoints,
        "best": judged.get("best"),
    }
