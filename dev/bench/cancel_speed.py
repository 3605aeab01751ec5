"""Measure the seconds from Cancel to a checkpoint that the run resumes from, on a real ComfyUI.

DreamBoothTrain trains the sandbox's subject with its defaults; Cancel is pressed at a random moment
of the training. The clock stops when ComfyUI reports the workflow as interrupted: by then the
worker has saved and ended. Each turn resumes where the one before it was cancelled.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ...as_package import ROOT
from ...training.run.events import loss_curve
from ...training.run.run_folder import RunFolder
from ..command_line import parse_arguments
from ..demo.comfyui_server import ComfyUI
from ..demo.server_client import Client, Outcome, node
from .timing import environment, median_range

log = logging.getLogger(__name__)

MAX_SECONDS = 3.0
"""Cancel is pressed at most this long after the first step that the node shows."""


def main() -> None:
    """Cancel in turns, and print the seconds with their range."""
    method = {"choices": ("lora", "full"), "default": "lora"}
    options = parse_arguments(__doc__, turns=7, seed=0, method=method)
    rng = random.Random(options.seed)  # noqa: S311
    log.info("%s\nthe sandbox, %s, DreamBoothTrain's defaults", environment(), options.method)
    seconds = []
    with tempfile.TemporaryDirectory() as name, ComfyUI(Path(name)) as server:
        for file in (ROOT / "sandbox" / "subject").glob("*.png"):
            shutil.copy(file, server.input / file.name)
        run = RunFolder(server.output / "dreambooth" / "cancelled")
        for _ in range(options.turns):
            delay = rng.uniform(0, MAX_SECONDS)
            seconds.append(_cancel(server, graph(server.input, options.method), delay))
            saved = run.steps_saved()
            if len(loss_curve(run.events)) != saved:
                raise RuntimeError(f"The run in {run.path} would not resume where it stopped.")
            log.info("%.2f s, %d steps saved", seconds[-1], saved)
    log.info("Cancel to checkpoint: %s s over %d turns", median_range(seconds), options.turns)


def _cancel(server: ComfyUI, workflow: dict[str, Any], delay: float) -> float:
    """Press Cancel `delay` seconds after the first step, and return how long it took."""
    first_step: list[float] = []
    pressed: list[float] = []

    def is_due(outcome: Outcome) -> bool:
        if not first_step and any("loss" in text for _, text in outcome.texts):
            first_step.append(time.perf_counter())
        if first_step and time.perf_counter() - first_step[0] >= delay:
            pressed.append(time.perf_counter())
        return bool(pressed)

    outcome = Client(server.address).run(workflow, cancel_when=is_due)
    if not outcome.interrupted:
        raise RuntimeError(f"The training was not cancelled: {outcome.failure}.")
    return time.perf_counter() - pressed[0]


def graph(folder: Path, method: str) -> dict[str, Any]:
    """Train on all images of an input folder, for longer than the benchmark runs."""
    workflow = {
        "load": node("LoadDiffusion", model="sandbox", dtype="auto"),
        "train": node(
            "DreamBoothTrain",
            diffusion=["load", 0],
            subject=["subject", 0],
            method=method,
            train_text_encoder=True,
            steps=100_000,
            learning_rate=0.0,
            rank=16,
            prior_weight=8.0,
            batch_size=4,
            seed=0,
            run_name="cancelled",
            resume=True,
            preview_prompt="",
        ),
    }
    batch: list[Any] = []
    for k, file in enumerate(sorted(folder.glob("*.png"))):
        workflow[f"image_{k}"] = node("LoadImage", image=file.name)
        if batch:
            workflow[f"batch_{k}"] = node("ImageBatch", image1=batch, image2=[f"image_{k}", 0])
        batch = [f"batch_{k}" if batch else f"image_{k}", 0]
    workflow["subject"] = node("SubjectDataset", image=batch, token="sks", class_name="dog")  # noqa: S106
    return workflow
