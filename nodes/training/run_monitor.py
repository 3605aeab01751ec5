"""Train a run in a worker process, and show its progress in the node."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import torch

from ...shared.atomic_files import disk_errors
from ...shared.errors import UserError
from ...shared.images import read_rgb, to_tensor
from ...shared.packages import TRAINING, require_packages
from ...training.config_yaml import read_config
from ...training.run import checkpoints as saved_checkpoints
from ...training.run.events import Event, EventReader, read_events
from ...training.run.loss_chart import LossChart
from ...training.run.run_folder import RunFolder
from ...training.run.saved_scores import read_scores
from ...training.run.worker_process import Worker
from .. import host

log = logging.getLogger(__name__)

RUNS_FOLDER = "dreambooth"
"""The folder of all runs, below ComfyUI's output folder."""

PANEL_EVENT = "kosmos_dreambooth.training"
"""The event that web/kosmos_dreambooth.js listens to."""


def train_to_end(run: RunFolder) -> None:
    """Train a run unless it is finished. Raises UserError when its files cannot be written.

    It is raised before anything else when packages for training are not installed.
    """
    if run.is_finished():
        return
    require_packages("Training", *TRAINING)
    host.unload_all_models()
    with disk_errors(run.path):
        _train(run, read_config(run.config).steps)


def _train(run: RunFolder, steps: int) -> None:
    """Run the worker and show its events; on Cancel or an error the worker saves and stops."""
    progress = host.Progress(steps)
    chart, follower = LossChart(steps), EventReader(run.events)
    last: Event | None = None
    preview: torch.Tensor | None = None
    try:
        with Worker(run) as worker:
            for event in worker.events():
                if event is None:
                    if last is not None:
                        chart.add(follower.read_new())
                        host.send_event(PANEL_EVENT, _panel(run, chart))
                        host.show_text(_status(chart))
                        progress.step(last.step, preview)
                        preview, last = None, None
                    host.check_interrupted()
                    continue
                last = event
                if event.kind == "preview" and event.file is not None:
                    preview = to_tensor(read_rgb(run.path / event.file))
    finally:
        chart.add(follower.read_new())
        host.send_event(PANEL_EVENT, _panel(run, chart))
    progress.step(steps, preview)


def _status(chart: LossChart) -> str:
    """Return a line with the step, the loss, the speed and the time left."""
    values = chart.to_json()
    progress = f"step {values['step']} of {values['steps']}"
    if not values["seconds_left"]:
        return f"{progress}, {values['state']}"
    left = timedelta(seconds=round(values["seconds_left"]))
    return (
        f"{progress}, loss {values['loss'][-1][1]:.4f}, {values['speed']:.1f} steps/s, {left} left"
    )


def panel_data(run: RunFolder) -> dict[str, Any]:
    """Return what the panel shows of a run, read from its folder."""
    chart = LossChart(read_config(run.config).steps)
    chart.add(read_events(run.events))
    return _panel(run, chart)


def _panel(run: RunFolder, chart: LossChart) -> dict[str, Any]:
    """Return a chart as the panel reads it.

    Added are the run's `name`, the address of its newest preview as `sample`, the `step` of each
    checkpoint, whether it is `kept` and its scores, once EvaluateSubject has measured them, and
    the step of the `best` one.
    """
    values = chart.to_json()
    sample = values["sample"] and host.view_address(run.path / values["sample"])
    kept = saved_checkpoints.by_step(run.checkpoints)
    try:
        saved_scores = read_scores(run)
    except UserError as error:  # the report of Load Training Run has it too
        log.warning("%s", error)
        saved_scores = None
    scores = saved_scores.by_step if saved_scores else {}
    checkpoints = [
        {"step": step, "kept": step in kept, **scores.get(step, {})}
        for step in sorted({*kept, *scores})
    ]
    return {
        **values,
        "name": run.path.name,
        "sample": sample,
        "checkpoints": checkpoints,
        "best": saved_scores.best if saved_scores else None,
    }
