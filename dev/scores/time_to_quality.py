"""Seconds of training until the subject is learned and its class kept, next to diffusers' loops.

Learned and kept: nine of ten images of "a sks dog" in new scenes are nearer to the subject than to
its class, and nine of ten of "a dog" are not and are captioned as one. Ours trains with the default
options; its checkpoints are scored afterwards. diffusers' documented loops train the same model on
the same images, with their own defaults and learning rates, which are scaled to the model's size as
ours is; they are scored every so many steps, and give up at last. Scoring takes no time here.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim import optimizer as optimizers

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.model_source import load_diffusion
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.judge import IMAGE_SIZE, Judge, load_judge
from ...shared.images import read_rgb, to_batch
from ...training.config import TrainingConfig, suggested_learning_rate
from ...training.data.latents import center_squares
from ...training.run.run_folder import RunFolder
from ...training.run.run_results import load_result
from ..bench.documented_dreambooth import Examples, token_ids
from ..bench.documented_dreambooth import train as documented
from ..bench.timing import CPU_TIME, Clock, clock_for, environment
from ..command_line import parse_arguments
from ..sandbox.draw_subject import portraits
from .personalisation_scores import (
    CLASS_PROMPT,
    SUBJECT_PROMPT,
    class_image_files,
    class_kept,
    demo_subject,
    generate,
    nearer,
    train_subject,
)

log = logging.getLogger(__name__)

REQUIRED = 0.9
DOCUMENTED = ("lora", "full")
"""train_dreambooth_lora.py, and train_dreambooth.py with --train_text_encoder."""


class Quality(NamedTuple):
    """Shares of images: the subject in new scenes, and "a dog" that is still any dog."""

    subject: float
    kept: float

    @property
    def reached(self) -> bool:
        """Whether both are required ones."""
        return min(self) >= REQUIRED


class QualityScorer:
    """Scores models that were trained from one base model, with `count` images of each kind."""

    def __init__(self, base: Diffusion, kosmos: Kosmos, judge: Judge, count: int) -> None:
        self._kosmos, self._judge, self._count = kosmos, judge, count
        self._own = judge.embed(to_batch(portraits(IMAGE_SIZE)))
        self._before = judge.embed(generate(base, CLASS_PROMPT, count, 0))

    def __call__(self, model: Diffusion) -> Quality:
        """Generate and score images."""
        scenes = generate(model, SUBJECT_PROMPT, self._count, 0, with_background=True)
        after = generate(model, CLASS_PROMPT, self._count, 0)
        confused = nearer(self._judge.embed(after), self._own, self._before)
        return Quality(
            statistics.mean(nearer(self._judge.embed(scenes), self._own, self._before)),
            statistics.mean(class_kept(self._kosmos, after, confused)),
        )


class EndOfTrainingError(Exception):
    """The quality is reached, or the time is up."""


class Timed(NamedTuple):
    """The quality after a number of steps and seconds of training."""

    quality: Quality
    seconds: float
    step: int


@contextmanager
def after_each_step(on_step: Callable[[int], None]) -> Iterator[None]:
    """Call `on_step` with the number of steps after each step of any optimizer."""
    steps = itertools.count(1)
    handle = optimizers.register_optimizer_step_post_hook(lambda *_: on_step(next(steps)))
    try:
        yield
    finally:
        handle.remove()


def main() -> None:
    """Print a table row for each training."""
    options = parse_arguments(
        __doc__,
        steps=(TrainingConfig.steps, "of our run"),
        every=(50, "steps between scores"),
        images=(32, "images for each score"),
        give_up=(600.0, "seconds of a documented loop"),
        cpu_time=CPU_TIME,
    )
    clock = clock_for(options.cpu_time)
    base, judge = load_diffusion(DIFFUSION), load_judge()
    scorer = QualityScorer(base, load_kosmos(KOSMOS, torch.float32), judge, options.images)
    print("| training | learned and kept | seconds | steps | subject in new scenes | class kept |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _show(
            "ours, the defaults", _ours(base, scorer, folder, options.steps, options.every, clock)
        )
        files = class_image_files(base, folder / "priors")
        for method in DOCUMENTED:
            timed = _documented(method, files, scorer, options.give_up, options.every, clock)
            _show(f"diffusers' documented loop, {method}", timed)
    print(f"\n{environment()}")


def _show(name: str, timed: Timed) -> None:
    quality, seconds, step = timed
    reached = "yes" if quality.reached else "no"
    shares = " | ".join(f"{100 * share:.0f} %" for share in quality)
    print(f"| {name} | {reached} | {seconds:.0f} | {step} | {shares} |", flush=True)


def _ours(
    base: Diffusion, scorer: QualityScorer, folder: Path, steps: int, every: int, clock: Clock
) -> Timed:
    """Train to the end, and return the first checkpoint that has the quality, or the last one."""
    times = [clock()]
    settings: dict[str, Any] = {"checkpoint_every": every, "keep_checkpoints": 1000}
    with after_each_step(lambda _: times.append(clock())):
        train_subject(base, folder, folder / "priors", 0, steps=steps, **settings)
    (run,) = (RunFolder(path) for path in folder.glob("run_*"))
    for step in sorted({*range(every, steps, every), steps}):
        quality = scorer(load_result(run, torch.float32, step))
        timed = Timed(quality, times[step] - times[0], step)
        log.info("ours: %s", timed)
        if quality.reached:
            break
    return timed


def _documented(
    method: str,
    files: Sequence[Path],
    scorer: QualityScorer,
    give_up: float,
    every: int,
    clock: Clock,
) -> Timed:
    """Train until the quality is reached or the time is up."""
    model = load_diffusion(DIFFUSION)
    subject = _examples(model, demo_subject().images, SUBJECT_PROMPT)
    class_images = _examples(model, [read_rgb(file) for file in files], CLASS_PROMPT)
    start, timed = clock(), Timed(Quality(0, 0), 0.0, 0)

    def score(step: int) -> None:
        nonlocal start, timed
        if step % every:
            return
        seconds = clock() - start
        timed = Timed(scorer(model), seconds, step)
        log.info("%s: %s", method, timed)
        if timed.quality.reached or seconds > give_up:
            raise EndOfTrainingError
        start = clock() - seconds

    torch.manual_seed(0)
    with suppress(EndOfTrainingError), after_each_step(score):
        documented(
            model,
            subject,
            class_images,
            method=method,
            rank=4,
            batch_size=1,
            steps=sys.maxsize,
            learning_rate=suggested_learning_rate(method, model.unet.num_parameters()),
        )
    return timed


def _examples(model: Diffusion, images: Sequence[np.ndarray], prompt: str) -> Examples:
    pixels = center_squares(images, model.resolution).movedim(-1, 1) * 2 - 1
    return Examples(pixels, token_ids(model, [prompt] * len(images)))
