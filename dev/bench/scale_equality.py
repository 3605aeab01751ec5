"""The losses of one global batch: in one process, in two that share it (gloo), and accumulated.

With the strategy zero the two share the optimizer's state as well.

What a step draws is a function of its number, so the curves differ by rounding alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch

from ...sandbox import DIFFUSION as SANDBOX
from ...training.run.events import loss_curve
from .resume_equality import finish
from .small_run import small_run
from .timing import environment

log = logging.getLogger(__name__)

ALLOWED = 1e-5


def main() -> None:
    """Read the command line, train all, and print how far they part; exit code 1 if too far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--method", choices=("lora", "dora", "full"), default="lora")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info(environment(torch.device("cpu")))
    log.info("the sandbox, %s, global batch 4, %d steps", options.method, options.steps)
    ways: dict[str, dict[str, object]] = {
        "one process": {"batch_size": 4},
        "two processes": {"batch_size": 4, "devices": 2},
        "two processes, zero": {"batch_size": 4, "devices": 2, "strategy": "zero"},
        "four parts, accumulated": {"batch_size": 1, "accumulation": 4},
        "two processes, two parts": {"batch_size": 2, "accumulation": 2, "devices": 2},
    }
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, settings) in enumerate(ways.items()):
            run = small_run(
                SANDBOX,
                Path(folder),
                f"run_{number}",
                method=options.method,
                steps=options.steps,
                **settings,
            )
            finish(run)
            curves[name] = loss_curve(run.events)
    reference, *others = curves.items()
    furthest = 0.0
    for name, curve in others:
        apart = [abs(a - b) / b for a, b in zip(curve, reference[1], strict=True)]
        furthest = max(furthest, *apart)
        step = apart.index(max(apart)) + 1
        log.info("%s: at most %.1e apart, at step %d", name, max(apart), step)
    log.info("allowed: %.0e", ALLOWED)
    sys.exit(furthest > ALLOWED)
