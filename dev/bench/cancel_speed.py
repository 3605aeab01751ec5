"""Seconds from pressing Cancel to a checkpoint that the run goes on from, on a real ComfyUI.

DreamBoothTrain trains the sandbox's subject with its defaults; Cancel is pressed at a random moment
of the training. The clock stops when ComfyUI says that the workflow is interrupted: by then the
worker has saved and ended. Each turn goes on where the one before it was cancelled.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ...training.run.events import loss_curve
from ...training.run.run_folder import RunFolder
from ..demo.comfyui_server import ROOT, ComfyUI
from ..demo.server_client import Client, Outcome
from .timing import environment

log = logging.getLogger(__name__)

MOST_SECONDS = 3.0
"""Cancel is pressed at most so long after the first step that the node shows."""


def main() -> None:
    """Read the command line, cancel in turns, and print the seconds with their spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    source = random.Random(options.seed)  # noqa: S311
    log.info(environment(torch.device("cpu")))
    log.info("the sandbox, %s, DreamBoothTrain's defaults", options.method)
    seconds = []
    with tempfile.TemporaryDirectory() as name, ComfyUI(Path(name)) as server:
        for picture in sorted((ROOT / "sandbox" / "subject").glob("*.png")):
            shutil.copy(picture, server.input / picture.name)
        run = RunFolder(server.output / "dreambooth" / "cancelled")
        for _ in range(options.turns):
            wait = source.uniform(0, MOST_SECONDS)
            seconds.append(_cancel(server, graph(server.input, options.method), wait))
            saved = run.steps_saved()
            if len(loss_curve(run.events)) != saved:
                raise RuntimeError(f"The run in {run.path} would not go on where it was.")
            log.info("%.2f s, %d steps saved", seconds[-1], saved)
    log.info(
        "Cancel to checkpoint: %.2f s (%.2f to %.2f) over %d turns",
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        options.turns,
    )


def _cancel(server: ComfyUI, workflow: dict[str, Any], wait: float) -> float:
    """Press Cancel `wait` seconds after the first step, and return how long it took."""
    first: list[float] = []
    pressed: list[float] = []

    def now(seen: Outcome) -> bool:
        if not first and any("loss" in text for _, text in seen.texts):
            first.append(time.perf_counter())
        if first and time.perf_counter() - first[0] >= wait:
            pressed.append(time.perf_counter())
        return bool(pressed)

    outcome = Client(server.address).run(workflow, cancel_when=now)
    if not outcome.interrupted:
        raise RuntimeError(f"The training was not cancelled: {outcome.failure}.")
    return time.perf_counter() - pressed[0]


def graph(pictures: Path, method: str) -> dict[str, Any]:
    """Train on all pictures in a folder that ComfyUI lists, for longer than anyone waits."""
    names = [file.name for file in sorted(pictures.glob("*.png"))]
    workflow: dict[str, Any] = {
        "load": {"class_type": "LoadDiffusion", "inputs": {"model": "sandbox", "dtype": "auto"}},
        "train": {
            "class_type": "DreamBoothTrain",
            "inputs": {
                "diffusion": ["load", 0],
                "subject": ["subject", 0],
                "method": method,
                "train_text_encoder": True,
                "steps": 100_000,
                "learning_rate": 0.0,
                "rank": 16,
                "prior_weight": 8.0,
                "batch_size": 4,
                "seed": 0,
                "run_name": "cancelled",
                "resume": True,
                "preview_prompt": "",
            },
        },
    }
    batch: list[Any] = []
    for k, name in enumerate(names):
        workflow[f"image_{k}"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        if not batch:
            batch = [f"image_{k}", 0]
            continue
        inputs = {"image1": batch, "image2": [f"image_{k}", 0]}
        workflow[f"batch_{k}"] = {"class_type": "ImageBatch", "inputs": inputs}
        batch = [f"batch_{k}", 0]
    workflow["subject"] = {
        "class_type": "SubjectDataset",
        "inputs": {"image": batch, "token": "sks", "class_name": "dog"},
    }
    return workflow
