"""Run one graph many times in one server, and measure the server's memory."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from ...sandbox.world.scene import HELD_OUT
from ..command_line import parse_arguments
from ..demo.comfyui_server import ComfyUI
from ..demo.server_client import Client, node
from ..sandbox.scene_pool import draw_samples
from .timing import environment

log = logging.getLogger(__name__)

SCENES = 10
"""Images that take turns, so that no run finds its own result in ComfyUI's cache."""

WARM_UP = 2 * SCENES
"""Runs before growth is measured: each image twice, so that all buffers are allocated."""

EVERY = 10

IDLE_SECONDS = 12
"""Pause before a reading: ComfyUI collects garbage after ten idle seconds."""


def graph(scene: int) -> dict[str, Any]:
    """Caption an image, map every token of the caption, and score four texts."""
    inputs = {"kosmos": ["kosmos", 0], "image": ["image", 0]}
    return {
        "image": node("LoadImage", image=f"scene_{scene}.png"),
        "kosmos": node("LoadKosmos", model="sandbox", dtype="auto", attention="auto"),
        "captions": node(
            "GroundedCaption", **inputs, style="brief", prompt="", max_new_tokens=64, batch_size=0
        ),
        "maps": node(
            "AttentionMap",
            **inputs,
            grounding=["captions", 1],
            caption="",
            words="",
            method="gradient",
            layers="all",
            heads="all",
        ),
        "preview": node("PreviewImage", images=["maps", 0]),
        "embeddings": node(
            "EmbedImageText",
            **inputs,
            method="likelihood",
            text="a dog\na red boat\na house in the snow\na star at night",
            prompt="",
            dual_encoder="none",
            batch_size=0,
        ),
        "scores": node(
            "CompareEmbeddings", rows=["embeddings", 0], columns=["embeddings", 1], top=1
        ),
        "ranking": node("PreviewAny", source=["scores", 2]),
    }


def main() -> None:
    """Log the server's resident memory every ten runs, and its growth after the warm-up."""
    options = parse_arguments(__doc__, runs=(50, "runs after the warm-up"))
    with tempfile.TemporaryDirectory() as folder, ComfyUI(Path(folder)) as server:
        for k, sample in enumerate(draw_samples(HELD_OUT, SCENES, 112)):
            Image.fromarray(sample.pixels).save(server.input / f"scene_{k}.png")
        client, process = Client(server.address), psutil.Process(server.pid)

        def run(first: int, last: int) -> float:
            for number in range(first, last):
                outcome = client.run(graph(number % SCENES))
                if outcome.failure is not None:
                    raise RuntimeError(f"A run failed: {outcome.failure}")
            time.sleep(IDLE_SECONDS)
            return float(process.memory_info().rss / 2**20)

        log.info("after the first %7.1f MiB", run(0, 1))
        warm = run(1, WARM_UP)
        log.info("after %3d runs  %7.1f MiB  (warm-up)", WARM_UP, warm)
        for first in range(0, options.runs, EVERY):
            last = min(first + EVERY, options.runs)
            now = run(first, last)
            log.info("and %3d more    %7.1f MiB  %+.2f %%", last, now, 100 * (now / warm - 1))
    log.info("Measured on %s.", environment())
