"""Compare the losses of one global batch in one process, in two (gloo), and accumulated.

With the strategy zero the two processes shard the optimizer's state as well. The random numbers of
a step depend on its number only, so the curves differ by rounding alone.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from ...sandbox import DIFFUSION as SANDBOX
from ...training.run.events import loss_curve
from ..command_line import parse_arguments
from .resume_equality import METHODS, finish
from .small_run import small_run
from .timing import environment

log = logging.getLogger(__name__)

TOLERANCE = 1e-5


def main() -> None:
    """Train all runs, and print the largest relative differences; exit code 1 if too large."""
    method = {"choices": METHODS, "default": "lora"}
    options = parse_arguments(__doc__, steps=50, method=method)
    log.info(environment())
    log.info("the sandbox, %s, global batch 4, %d steps", options.method, options.steps)
    runs: dict[str, dict[str, object]] = {
        "one process": {"batch_size": 4},
        "two processes": {"batch_size": 4, "devices": 2},
        "two processes, zero": {"batch_size": 4, "devices": 2, "strategy": "zero"},
        "four parts, accumulated": {"batch_size": 1, "accumulation": 4},
        "two processes, two parts": {"batch_size": 2, "accumulation": 2, "devices": 2},
    }
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, settings) in enumerate(runs.items()):
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
    largest = 0.0
    for name, curve in others:
        errors = [abs(a - b) / b for a, b in zip(curve, reference[1], strict=True)]
        largest = max(largest, *errors)
        step = errors.index(max(errors)) + 1
        log.info("%s: at most %.1e apart, at step %d", name, max(errors), step)
    log.info("allowed: %.0e", TOLERANCE)
    sys.exit(largest > TOLERANCE)
