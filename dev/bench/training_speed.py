"""Our trainer beside diffusers' documented loops, on the same data: steps per second and memory.

Both train in this process, turn by turn. "defaults" are each one's own; all other rows have equal
settings: fp32, the same batch of subject and class pictures (the embedding alone learns without).
Ours is timed with all that it does beside: its journal, its draws, its event stream.
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
from collections.abc import Callable, Sequence
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
from ..demo.comfyui_server import home
from .documented_dreambooth import Examples, captioned
from .documented_dreambooth import train as documented
from .step_timing import WARM_UP, Stopwatch
from .timing import Clock, add_clock, environment

log = logging.getLogger(__name__)

PICTURES, CLASS_PICTURES, SIDE = 4, 8, 64
CAPTION, CLASS_CAPTION = "a sks dog in the snow", "a dog"
ROWS = ("defaults", "full", "unet", "lora", "embedding")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Measured:
    """What the turns of one trainer took."""

    speeds: list[float] = field(default_factory=list)  # steps per second
    peak: int = 0  # bytes above what was held before
    parts: dict[str, float] = field(default_factory=dict)  # seconds in the last turn's step

    def take(self, work: Callable[[], None], clock: Clock, count: int) -> None:
        """Run a turn of so many steps. One that does not fit raises what the trainer raises."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        risen = watch_peak(DEVICE)
        with Stopwatch(clock, count) as watch:
            work()
        steps = [sum(parts.values()) for parts in watch.steps[WARM_UP:]]
        self.speeds.append(len(steps) / sum(steps))
        self.peak = max(self.peak, risen() if risen else 0)
        self.parts = watch.medians()


def main() -> None:
    """Read the command line, measure in turns, and print each row as it is ready."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("sandbox", "sd15"), default="sandbox")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--batch", type=int, default=1, help="where settings are equal")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--verbose", action="store_true", help="show each turn as it ends")
    add_clock(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.DEBUG if options.verbose else logging.INFO)
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
            ours, theirs = Measured(), Measured()
            for turn in range(options.turns):
                for name, measured, work in (("ours", ours, _ours), ("theirs", theirs, _theirs)):
                    run = partial(work, row, base, folder, options, turn)
                    measured.take(run, options.clock, options.steps)
                    log.debug("%s, turn %d, %s: %s", row, turn + 1, name, _split(measured))
            log.info("%s", _line(row, ours, theirs))
            if row == "defaults":
                a, b = (statistics.median(one.speeds) for one in (ours, theirs))
                a *= _own_batch(base)
                log.info("    pictures of the subject a second: ours %.2f, theirs %.2f", a, b)
            log.info("    ours: %s", _split(ours))
            log.info("    theirs: %s", _split(theirs))


def _line(row: str, ours: Measured, theirs: Measured) -> str:
    ratios = [a / b for a, b in zip(ours.speeds, theirs.speeds, strict=True)]
    speeds = " | ".join(_spread(values) for values in (ours.speeds, theirs.speeds, ratios))
    peaks = " | ".join(f"{one.peak / 1e9:.2f} GB" for one in (ours, theirs))
    return f"| {row} | {speeds} | {peaks} |"


def _split(measured: Measured) -> str:
    """Say how a step's time is divided."""
    whole = sum(measured.parts.values())
    parts = (f"{name} {seconds / whole:.0%}" for name, seconds in measured.parts.items())
    return f"{1000 * whole:.0f} ms: {', '.join(parts)}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _pictures(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]


def _own_batch(base: Path) -> int:
    """What we show of the subject in a step by default; the documented loops show one picture."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet"))
    return suggested_batch_size(unet.num_parameters(), 1)


def _settings(row: str, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What our trainer is told in a row, apart from its own defaults."""
    if row == "defaults":
        return {"batch_size": _own_batch(base)}
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
    subject = Subject(tuple(_pictures(PICTURES, 0)), (CAPTION,) * PICTURES, "sks", "dog")
    files = []
    for k, picture in enumerate(_pictures(CLASS_PICTURES if row != "embedding" else 0, 1)):
        files.append(folder / f"{k}.png")
        Image.fromarray(picture).save(files[-1])
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
        pixels = center_squares(_pictures(count, seed), SIDE).movedim(-1, 1) * 2 - 1
        return Examples(pixels, captioned(diffusion, [caption] * count))

    documented(
        diffusion,
        examples(PICTURES, 0, CAPTION),
        examples(CLASS_PICTURES, 1, CLASS_CAPTION) if row != "embedding" else None,
        method="unet" if row == "defaults" else row,
        rank=4,
        batch_size=1 if row == "defaults" else options.batch,
        steps=options.steps,
        rate=1e-5,
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
