"""Compare our trainer with diffusers' documented loops: steps per second and peak memory.

Both train on the same data in this process, in turn. "defaults" are each one's own; all other rows
have equal settings: fp32, the same batch of subject and class images (none for the embedding).
Ours is timed with everything it does besides: event stream, metrics, random number streams.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from ...diffusion.load.detect_checkpoint import SD1
from ...diffusion.load.model_parts import load_tokenizer
from ...diffusion.load.model_source import load_diffusion
from ...sandbox import DIFFUSION as SANDBOX
from ...shared.peak_memory import watch_peak
from ...training.config import TrainingConfig, suggested_batch_size
from ...training.data.latents import center_squares
from ...training.data.subject import Subject, subject_fingerprint
from ...training.run.run_folder import open_run
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..command_line import parse_arguments
from ..demo.comfyui_server import home
from .documented_dreambooth import Examples, token_ids
from .documented_dreambooth import train as documented
from .step_timing import WARM_UP, StepTimer
from .timing import CPU_TIME, DEVICE, Clock, clock_for, environment, median_range, ratios

log = logging.getLogger(__name__)

IMAGES, CLASS_IMAGES, SIDE = 4, 8, 64
CAPTION, CLASS_CAPTION = "a sks dog in the snow", "a dog"
ROWS = ("defaults", "full", "unet", "lora", "embedding")


@dataclass
class Measurement:
    """Measurements of one trainer's turns."""

    speeds: list[float] = field(default_factory=list)  # steps per second
    peak: int = 0  # bytes above the memory in use before
    parts: dict[str, float] = field(default_factory=dict)  # median seconds in the last turn

    def add(self, work: Callable[[], None], clock: Clock, count: int) -> None:
        """Run a turn of `count` steps; out of memory raises the trainer's error."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        peak = watch_peak(torch.device(DEVICE))
        with StepTimer(clock, count) as timer:
            work()
        steps = [sum(parts.values()) for parts in timer.steps[WARM_UP:]]
        self.speeds.append(len(steps) / sum(steps))
        self.peak = max(self.peak, peak() if peak else 0)
        self.parts = timer.medians()


def main() -> None:
    """Print a table row for each training method as soon as it is measured."""
    options = parse_arguments(
        __doc__,
        size={"choices": ("sandbox", "sd15"), "default": "sandbox"},
        rows={"nargs": "+", "choices": ROWS, "default": ROWS},
        batch=(1, "where settings are equal"),
        steps=20,
        turns=5,
        verbose=(False, "show each turn as it ends"),
        cpu_time=CPU_TIME,
    )
    clock = clock_for(options.cpu_time)
    log.info(
        "%s, %d pixels, batch %d+%d where settings are equal, %s",
        *(options.size, SIDE, options.batch, options.batch, environment(DEVICE)),
    )
    log.info("| row | ours, steps/s | diffusers' loop | ratio | peak, ours | theirs |")
    log.info("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = SANDBOX if options.size == "sandbox" else _random_sd15(folder / "sd15")
        for row in options.rows:
            ours, theirs = Measurement(), Measurement()
            for turn in range(options.turns):
                for name, trainer, work in (("ours", ours, _ours), ("theirs", theirs, _theirs)):
                    run = partial(work, row, base, folder, options, turn)
                    trainer.add(run, clock, options.steps)
                    log.debug("%s, turn %d, %s: %s", row, turn + 1, name, _parts(trainer))
            speeds = (ours.speeds, theirs.speeds, ratios(ours.speeds, theirs.speeds))
            cells = [median_range(values) for values in speeds]
            cells += [f"{one.peak / 1e9:.2f} GB" for one in (ours, theirs)]
            log.info("| %s | %s |", row, " | ".join(cells))
            if row == "defaults":
                a, b = (statistics.median(one.speeds) for one in (ours, theirs))
                a *= _default_batch(base)
                log.info("    images of the subject per second: ours %.2f, theirs %.2f", a, b)
            log.info("    ours: %s", _parts(ours))
            log.info("    theirs: %s", _parts(theirs))


def _parts(measurement: Measurement) -> str:
    """How a step's time is divided."""
    total = sum(measurement.parts.values())
    parts = (f"{name} {seconds / total:.0%}" for name, seconds in measurement.parts.items())
    return f"{1000 * total:.0f} ms: {', '.join(parts)}"


def _noise_images(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def _default_batch(base: Path) -> int:
    """Our default number of subject images per step; the documented loops have one."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet"))
    return suggested_batch_size(unet.num_parameters(), 1)


def _settings(row: str, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Our trainer's settings in a row, where they are not its defaults."""
    if row == "defaults":
        return {"batch_size": _default_batch(base)}
    return {
        "method": "full" if row == "unet" else row,
        "train_text_encoder": row == "full",
        "layers": "attention",
        "rank": 4,
        "precision": "fp32",
        "class_target": "pictures",
        "prior_weight": 1.0,
        "batch_size": options.batch,
    }


def _ours(row: str, base: Path, folder: Path, options: argparse.Namespace, turn: int) -> None:
    subject = Subject(tuple(_noise_images(IMAGES, 0)), (CAPTION,) * IMAGES, "sks", "dog")
    files = []
    for k, image in enumerate(_noise_images(CLASS_IMAGES if row != "embedding" else 0, 1)):
        files.append(folder / f"{k}.png")
        Image.fromarray(image).save(files[-1])
    config = TrainingConfig(
        base=str(base),
        token="sks",  # noqa: S106
        class_name="dog",
        data=subject_fingerprint(subject, files),
        resolution=SIDE,
        steps=options.steps + 1,
        seed=turn,
        preview_every=0,
        checkpoint_every=options.steps + 1,
        **_settings(row, base, options),
    )
    run = open_run(folder / "runs", f"turn_{turn}", config, subject, files, resume=False)
    try:
        train(run, StopRequest())
    finally:
        shutil.rmtree(run.path)


def _theirs(row: str, base: Path, _: Path, options: argparse.Namespace, turn: int) -> None:
    torch.manual_seed(turn)
    diffusion = load_diffusion(base)
    diffusion.modules.to(DEVICE)

    def examples(count: int, seed: int, caption: str) -> Examples:
        pixels = center_squares(_noise_images(count, seed), SIDE).movedim(-1, 1) * 2 - 1
        return Examples(pixels, token_ids(diffusion, [caption] * count))

    documented(
        diffusion,
        examples(IMAGES, 0, CAPTION),
        examples(CLASS_IMAGES, 1, CLASS_CAPTION) if row != "embedding" else None,
        method="unet" if row == "defaults" else row,
        rank=4,
        batch_size=1 if row == "defaults" else options.batch,
        steps=options.steps,
        learning_rate=1e-5,
    )


def _random_sd15(folder: Path) -> Path:
    """Write a Stable Diffusion 1.5 with random weights, in half precision (2 GB)."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD1 / "unet"))
    unet.half().save_pretrained(folder / "unet")
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SD1 / "vae"))
    vae.half().save_pretrained(folder / "vae")
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder"))
    encoder.half().save_pretrained(folder / "text_encoder")
    shutil.copytree(SD1 / "scheduler", folder / "scheduler")
    vocabulary = home() / "comfy" / "sd1_tokenizer"  # CLIP's
    load_tokenizer(vocabulary, model_max_length=77).save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder
