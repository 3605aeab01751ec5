"""Compare our trainer with diffusers' documented loops: steps per second and peak memory.

Both train on the same data in this process, in turn. "defaults" are each one's own; all other rows
have equal settings: fp32, the same batch of subject and class images (none for the embedding).
Ours is timed with everything it does besides: event stream, metrics, random number streams.
"""

from __future__ import annotations

import ctypes
import gc
import json
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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ...diffusion.load.detect_checkpoint import SD1, XL
from ...diffusion.load.model_parts import load_tokenizer
from ...diffusion.load.model_source import load_diffusion
from ...sandbox import DIFFUSION as SANDBOX
from ...shared.batching import unless_out_of_memory
from ...shared.peak_memory import watch_peak
from ...training.config import TrainingConfig, suggested_batch_size
from ...training.data.latents import center_squares
from ...training.data.subject import Subject, subject_fingerprint
from ...training.run.run_folder import open_run
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..command_line import parse_arguments
from ..demo.comfyui_server import home
from ..sandbox.tokenizers import clip_tokenizer
from .documented_dreambooth import Examples, token_ids
from .documented_dreambooth import train as documented
from .step_timing import WARM_UP, StepTimer
from .timing import CPU_TIME, DEVICE, Clock, clock_for, environment, median_range, ratios

log = logging.getLogger(__name__)

IMAGES, CLASS_IMAGES = 4, 8
CAPTION, CLASS_CAPTION = "a sks dog in the snow", "a dog"
ROWS = ("defaults", "full", "unet", "lora", "embedding")


SIZES = {"sd15": SD1, "sdxl": XL}
"""Published sizes and their configurations."""


@dataclass(frozen=True)
class Task:
    """What both sides train: a row's method on the model in `base`, with square images.

    `folder` is for files of the turns, `batch` is the number of subject and of class images.
    `precision` is "fp32" or "bf16" (mixed).
    """

    row: str
    base: Path
    folder: Path
    steps: int
    batch: int = 1
    side: int = 128
    precision: str = "fp32"
    device: str = DEVICE


@dataclass
class Measurement:
    """Measurements of one trainer's turns; no speeds where it ran out of memory."""

    speeds: list[float] = field(default_factory=list)  # steps per second
    peak: int = 0  # bytes above the memory in use before
    parts: dict[str, float] = field(default_factory=dict)  # median seconds in the last turn

    def add(self, work: Callable[[], None], clock: Clock, task: Task) -> None:
        """Run a turn; raises a UserError of the trainer."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        peak = watch_peak(torch.device(task.device))
        with StepTimer(clock, task.steps) as timer:
            if unless_out_of_memory(partial(_done, work)) is None:
                return
        steps = [sum(parts.values()) for parts in timer.steps[WARM_UP:]]
        self.speeds.append(len(steps) / sum(steps))
        self.peak = max(self.peak, peak() if peak else 0)
        self.parts = timer.medians()


def main() -> None:
    """Print a table row for each training method as soon as it is measured."""
    options = parse_arguments(
        __doc__,
        size={"choices": ("sandbox", *SIZES), "default": "sandbox"},
        side=(128, "pixels"),
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
        *(options.size, options.side, options.batch, options.batch, environment(DEVICE)),
    )
    log.info("| row | ours, steps/s | diffusers' loop | ratio | peak, ours | theirs |")
    log.info("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = SANDBOX
        if options.size != "sandbox":
            base = random_diffusion(folder / options.size, SIZES[options.size])
        for row in options.rows:
            task = Task(row, base, folder, options.steps, options.batch, options.side)
            ours, theirs = measure(task, options.turns, clock)
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


def _done(work: Callable[[], None]) -> bool:
    work()
    return True


def measure(task: Task, turns: int, clock: Clock) -> tuple[Measurement, Measurement]:
    """Train both sides in turn."""
    ours, theirs = Measurement(), Measurement()
    for turn in range(turns):
        for name, trainer, work in (("ours", ours, _ours), ("theirs", theirs, _theirs)):
            trainer.add(partial(work, task, turn), clock, task)
            log.debug("%s, turn %d, %s: %s", task.row, turn + 1, name, _parts(trainer))
    return ours, theirs


def _parts(measurement: Measurement) -> str:
    """How a step's time is divided."""
    total = sum(measurement.parts.values())
    parts = (f"{name} {seconds / total:.0%}" for name, seconds in measurement.parts.items())
    return f"{1000 * total:.0f} ms: {', '.join(parts)}"


def _noise_images(count: int, seed: int, side: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def _default_batch(base: Path) -> int:
    """Our default number of subject images per step; the documented loops have one."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet"))
    return suggested_batch_size(unet.num_parameters(), 1)


def _settings(task: Task) -> dict[str, Any]:
    """Our trainer's settings in a row, where they are not its defaults."""
    if task.row == "defaults":
        return {"batch_size": _default_batch(task.base)}
    return {
        "method": "full" if task.row == "unet" else task.row,
        "train_text_encoder": task.row == "full",
        "layers": "attention",
        "rank": 4,
        "precision": task.precision,
        "class_target": "pictures",
        "prior_weight": 1.0,
        "batch_size": task.batch,
    }


def _ours(task: Task, turn: int) -> None:
    images = _noise_images(IMAGES, 0, task.side)
    subject = Subject(tuple(images), (CAPTION,) * IMAGES, "sks", "dog")
    files = []
    class_count = CLASS_IMAGES if task.row != "embedding" else 0
    for k, image in enumerate(_noise_images(class_count, 1, task.side)):
        files.append(task.folder / f"{k}.png")
        Image.fromarray(image).save(files[-1])
    config = TrainingConfig(
        base=str(task.base),
        token="sks",  # noqa: S106
        class_name="dog",
        data=subject_fingerprint(subject, files),
        resolution=task.side,
        device="cpu" if task.device == "cpu" else "auto",
        steps=task.steps + 1,
        seed=turn,
        preview_every=0,
        checkpoint_every=task.steps + 1,
        **_settings(task),
    )
    run = open_run(task.folder / "runs", f"turn_{turn}", config, subject, files, resume=False)
    try:
        train(run, StopRequest())
    finally:
        shutil.rmtree(run.path)


def _theirs(task: Task, turn: int) -> None:
    torch.manual_seed(turn)
    diffusion = load_diffusion(task.base)
    diffusion.modules.to(task.device)

    def examples(count: int, seed: int, caption: str) -> Examples:
        images = center_squares(_noise_images(count, seed, task.side), task.side)
        return Examples(images.movedim(-1, 1) * 2 - 1, token_ids(diffusion, [caption] * count))

    documented(
        diffusion,
        examples(IMAGES, 0, CAPTION),
        examples(CLASS_IMAGES, 1, CLASS_CAPTION) if task.row != "embedding" else None,
        method="unet" if task.row == "defaults" else task.row,
        rank=4,
        batch_size=1 if task.row == "defaults" else task.batch,
        steps=task.steps,
        learning_rate=1e-5,
        mixed=task.precision == "bf16",
    )


TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64, 64),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "transformer_layers_per_block": 1,
        "cross_attention_dim": 64,
    },
    "vae": {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    "text_encoder": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
}
"""Settings that make a model of a published layout small enough for a rehearsal on a CPU."""


def random_diffusion(
    folder: Path, published: Path, *, tiny: bool = False, device: str = "cpu"
) -> Path:
    """Write a Stable Diffusion with random weights in half precision (1.5: 2 GB, XL: 7 GB).

    `published` is the folder of its configuration, `device` makes the weights.
    """
    torch.manual_seed(0)
    changes = TINY if tiny else {}

    def save(part: str, module: Any) -> None:
        module.half().save_pretrained(folder / part)

    def clip_config(part: str) -> CLIPTextConfig:
        return CLIPTextConfig.from_pretrained(published / part, **changes.get("text_encoder", {}))

    unet = UNet2DConditionModel.load_config(published / "unet")
    unet |= changes.get("unet", {})
    if tiny and published == XL:
        pooled, sizes = 64, 6 * unet["addition_time_embed_dim"]
        unet |= {
            "cross_attention_dim": 2 * 64,
            "projection_class_embeddings_input_dim": pooled + sizes,
        }
    levels = len(unet["down_block_types"])
    unet["block_out_channels"] = unet["block_out_channels"][:levels]
    vae = AutoencoderKL.load_config(published / "vae") | changes.get("vae", {})
    with torch.device(device):
        save("unet", UNet2DConditionModel.from_config(unet))
        save("vae", AutoencoderKL.from_config(vae))
        save("text_encoder", CLIPTextModel(clip_config("text_encoder")))
        if published == XL:
            second = CLIPTextModelWithProjection(clip_config("text_encoder_2"))
            save("text_encoder_2", second)
    shutil.copytree(published / "scheduler", folder / "scheduler")
    if tiny:
        tokenizer = clip_tokenizer()  # CLIP's takes a second to load
    else:
        vocabulary = home() / "comfy" / "sd1_tokenizer"  # CLIP's
        tokenizer = load_tokenizer(vocabulary, model_max_length=77)
    tokenizer.save_pretrained(folder / "tokenizer")
    name = "StableDiffusionPipeline"
    if published == XL:
        tokenizer.save_pretrained(folder / "tokenizer_2")
        name = "StableDiffusionXLPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder
