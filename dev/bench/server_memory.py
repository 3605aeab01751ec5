"""Runs one graph many times in one server, and reads how much memory the server holds."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from ...sandbox.world.scene import HELD_OUT
from ..demo.comfyui_server import ComfyUI
from ..demo.server_client import Client
from ..sandbox.scene_pool import draw_sample
from .timing import environment

log = logging.getLogger(__name__)

SCENES = 10
"""Pictures that take turns, so that no run finds its own result in the cache."""

WARM_UP = 2 * SCENES
"""Runs after which growth is counted: each picture twice, so that all buffers have come in."""

EVERY = 10

REST = 12
"""Seconds before a reading: ComfyUI collects its garbage within ten seconds of rest."""


def graph(scene: int) -> dict[str, Any]:
    """Caption a picture, map every word of the caption, and score four texts."""
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": f"scene_{scene}.png"}},
        "kosmos": {
            "class_type": "LoadKosmos",
            "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
        },
        "seen": {
            "class_type": "GroundedCaption",
            "inputs": {
                "kosmos": ["kosmos", 0],
                "image": ["image", 0],
                "style": "brief",
                "prompt": "",
                "max_new_tokens": 64,
                "batch_size": 0,
            },
        },
        "maps": {
            "class_type": "AttentionMap",
            "inputs": {
                "kosmos": ["kosmos", 0],
                "image": ["image", 0],
                "grounding": ["seen", 1],
                "caption": "",
                "words": "",
                "method": "gradient",
                "layers": "all",
                "heads": "all",
            },
        },
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["maps", 0]}},
        "embedded": {
            "class_type": "EmbedImageText",
            "inputs": {
                "kosmos": ["kosmos", 0],
                "image": ["image", 0],
                "method": "likelihood",
                "text": "a dog\na red boat\na house in the snow\na star at night",
                "prompt": "",
                "dual_encoder": "none",
                "batch_size": 0,
            },
        },
        "compared": {
            "class_type": "CompareEmbeddings",
            "inputs": {"rows": ["embedded", 0], "columns": ["embedded", 1], "top": 1},
        },
        "ranked": {"class_type": "PreviewAny", "inputs": {"source": ["compared", 2]}},
    }


def measure(runs: int) -> None:
    """Log the server's resident memory every ten runs, and its growth after the warm-up."""
    with tempfile.TemporaryDirectory() as folder, ComfyUI(Path(folder)) as server:
        for k in range(SCENES):
            picture = Image.fromarray(draw_sample(HELD_OUT + k, 112).pixels)
            picture.save(server.input / f"scene_{k}.png")
        client, process = Client(server.address), psutil.Process(server.pid)

        def run(first: int, last: int) -> float:
            for number in range(first, last):
                outcome = client.run(graph(number % SCENES))
                if outcome.failure is not None:
                    raise RuntimeError(f"A run failed: {outcome.failure}")
            time.sleep(REST)
            return float(process.memory_info().rss / 2**20)

        log.info("after the first %7.1f MiB", run(0, 1))
        warm = run(1, WARM_UP)
        log.info("after %3d runs  %7.1f MiB  (warm-up)", WARM_UP, warm)
        for done in range(0, runs, EVERY):
            many = min(done + EVERY, runs)
            now = run(done, many)
            log.info("and %3d more    %7.1f MiB  %+.2f %%", many, now, 100 * (now / warm - 1))
    log.info("Measured on %s.", environment(torch.device("cpu")))


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="runs after the warm-up")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measure(options.runs)
