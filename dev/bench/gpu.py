"""Try the pack on a GPU in ten minutes, with random weights of the published sizes.

Runs the tests that need CUDA, then measures captions, guidance, class images and training, each
next to what users would run instead, and writes docs/gpu.md. Rows that do not fit into the card's
memory or into the time are named as left out. `--cpu --tiny` rehearses all rows on small models.
"""

from __future__ import annotations

import argparse
import gc
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from ...as_package import ROOT
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.sample.sample_settings import SampleSettings
from ...kosmos.generate.caption import BRIEF
from ...kosmos.kosmos_model import Kosmos
from ...quantize.calibration_data import captioning_run
from ...quantize.quantize_models import quantize_kosmos
from ...sandbox.world.scene import HELD_OUT
from ...shared.atomic_files import write_text
from ...shared.batching import is_out_of_memory
from ...shared.errors import UserError
from ...shared.model_size import format_bytes
from ...shared.peak_memory import watch_peak
from ..command_line import parse_arguments
from ..sandbox.scene_pool import draw_samples
from .caption_speed import Task as CaptionTask
from .caption_speed import load, utilization
from .caption_speed import ours as generate_captions
from .generation_speed import TwoPassUNet, class_images, measure, ours, pipeline
from .model_phases import Phases
from .timing import environment, matmul_flops, median_range, read_bandwidth, wall_time
from .training_speed import SIZES, Task, random_diffusion
from .training_speed import measure as measure_training

log = logging.getLogger(__name__)

PAGE = ROOT / "docs" / "gpu.md"
CAPTION_DTYPES = ("fp16", "bf16", "int8", "int4")
GIB = 2**30

SANDBOX_SECONDS, ENCODING_SECONDS = 150, 90
"""The least time in which the sandbox is trained, and the part of it that draws its scenes."""


@dataclass
class Rehearsal:
    """What is measured, on which device, until when; the page's sections as they are measured.

    `end` is the time on the monotonic clock after which no row starts.
    """

    device: torch.device
    tiny: bool
    end: float
    folder: Path
    sections: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _speeds: dict[torch.dtype, tuple[float, float]] = field(default_factory=dict)

    @property
    def memory(self) -> float:
        """The card's memory in GiB; unlimited in a rehearsal."""
        if self.device.type != "cuda":
            return float("inf")
        return torch.cuda.get_device_properties(self.device).total_memory / GIB

    def speed(self, dtype: torch.dtype) -> tuple[float, float]:
        """The machine's own FLOP/s in a dtype, and bytes per second, measured once."""
        if dtype not in self._speeds:
            flops = matmul_flops(dtype, self.device, side=128 if self.tiny else 8192)
            self._speeds[dtype] = flops, read_bandwidth(self.device)
        return self._speeds[dtype]

    def table(self, title: str, head: str, rows: Iterator[str]) -> None:
        """Append a section with a table, as far as there are rows."""
        columns = head.count("|") - 1
        lines = list(rows)
        if lines:
            table = "\n".join([head, "|" + "---|" * columns, *lines])
            self.sections.append(f"## {title}\n\n{table}")

    def rows(self, measurements: Sequence[Row]) -> Iterator[str]:
        """Yield the table rows of measurements; those that cannot be done are left out.

        An error is logged and kept in `failed`, and the rows after it are measured all the same.
        """
        for one in measurements:
            reason = self._obstacle(one)
            if reason is None:
                before, start = self._allocated(), time.monotonic()
                peak = watch_peak(self.device)
                try:
                    cells = one.work()
                except Exception as error:
                    if isinstance(error, UserError) or is_out_of_memory(error):
                        reason = str(error).splitlines()[0]
                    else:
                        log.exception("%s", one.name)
                        self.failed.append(f"- {one.name}: {type(error).__name__}: {error}")
                else:
                    cells += [format_bytes(peak()) if peak else "", self._remaining(before)]
                    log.info("%s: %.0f s, %s", one.name, time.monotonic() - start, cells)
                    yield f"| {one.name} | {' | '.join(cells)} |"
            if reason is not None:
                log.info("%s: left out, %s", one.name, reason)
                self.left_out.append(f"- {one.name}: {reason}")

    def _obstacle(self, row: Row) -> str | None:
        left = self.end - time.monotonic()
        if row.gigabytes > self.memory and not self.tiny:
            return f"needs about {row.gigabytes:.0f} GiB of memory, of {self.memory:.0f}"
        if row.seconds > left and not self.tiny:
            return f"needs about {row.seconds:.0f} s, of {max(left, 0):.0f} that were left"
        return None

    def _allocated(self) -> int:
        gc.collect()
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        return int(torch.cuda.memory_allocated(self.device))

    def _remaining(self, before: int) -> str:
        """What the row did not give back."""
        if self.device.type != "cuda":
            return ""
        return format_bytes(max(0, self._allocated() - before))


@dataclass(frozen=True)
class Row:
    """A table row: its name, the memory in GiB and the seconds that it needs at the published
    size, and the work that returns its cells.
    """

    name: str
    gigabytes: float
    seconds: float
    work: Callable[[], list[str]]


def cuda_tests(run: Rehearsal) -> None:
    """Run the tests marked `cuda` in a process of their own, on a GPU."""
    if run.device.type != "cuda":
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--no-header", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or ["no output"]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    run.sections.append("## Tests that need CUDA\n\n" + "\n".join([*failed, lines[-1]]))
    log.info("Tests: %s", lines[-1])


def captions(run: Rehearsal) -> None:
    """Captions in batches of 1, 8 and 32, in each precision."""
    for dtype in CAPTION_DTYPES:
        kosmos: list[Kosmos] = []  # loaded by the first row, freed after the last

        def work(batch: int, dtype: str = dtype, kosmos: list[Kosmos] = kosmos) -> list[str]:
            if not kosmos:
                kosmos.append(_captioner(run, dtype))
            return _caption_cells(run, kosmos[0], batch, 4 if run.tiny else 60)

        batches = (1, 2) if run.tiny else (1, 8, 32)
        weights = 4 if dtype in ("fp16", "bf16") else 6  # quantized next to the unquantized model
        rows = [
            Row(f"{dtype}, {batch} images", weights + batch / 40, 15, partial(work, batch))
            for batch in batches
        ]
        head = (
            "| | images/s | tokens/s | prefill: of a matrix product's FLOP/s | decoding: of the "
            "bandwidth | peak | not given back |"
        )
        run.table(f"Captions, {dtype}", head, run.rows(rows))
        kosmos.clear()


def _captioner(run: Rehearsal, dtype: str) -> Kosmos:
    half = torch.float16 if dtype == "fp16" else torch.bfloat16
    kosmos = load("sandbox" if run.tiny else "real", str(run.device), half)
    if dtype in ("fp16", "bf16"):
        return kosmos
    side = kosmos.model.config.vision_config.image_size
    grey = torch.full((1, side, side, 3), 0.5)
    return quantize_kosmos(kosmos, dtype, calibration_run=captioning_run(kosmos, grey)).model


def _caption_cells(run: Rehearsal, kosmos: Kosmos, batch: int, tokens: int) -> list[str]:
    side = kosmos.model.config.vision_config.image_size
    scenes = [Image.fromarray(one.pixels) for one in draw_samples(HELD_OUT, batch, side)]
    task = CaptionTask(scenes, [BRIEF], tokens)
    generate_captions(kosmos, CaptionTask(scenes, [BRIEF], 2))  # warm-up
    start = wall_time()
    count = generate_captions(kosmos, task)
    seconds = wall_time() - start
    with Phases(kosmos, wall_time) as phases:
        generate_captions(kosmos, task)
    arithmetic, bandwidth = utilization(phases, *run.speed(kosmos.model.dtype))
    return [
        f"{batch / seconds:.2f}",
        f"{count / seconds:.0f}",
        f"{arithmetic:.0%}",
        f"{bandwidth:.0%}",
    ]


def sampling(run: Rehearsal) -> None:
    """Guidance in one pass and in two, and class images, on Stable Diffusion 1.5 in fp16."""
    count, steps, priors = (2, 2, 2) if run.tiny else (4, 25, 16)
    settings = SampleSettings(steps=steps, guidance=4.0)

    def compared(kind: str) -> list[str]:
        diffusion = load_diffusion(run.folder / "sd15")
        dtype = torch.float32 if run.tiny else torch.float16
        diffusion.modules.to(run.device, dtype)
        if kind == "guidance":
            two_pass = replace(diffusion, unet=TwoPassUNet(diffusion.unet))
            samplers = {"theirs": ours(two_pass, count), "ours": ours(diffusion, count)}
        elif kind == "pipeline":
            samplers = {"theirs": pipeline(diffusion, count), "ours": ours(diffusion, count)}
        else:
            samplers = {
                "theirs": class_images(diffusion, priors, in_loop=True),
                "ours": class_images(diffusion, priors, in_loop=False),
            }
        timings = measure(samplers, settings, 1 if run.tiny else 3, wall_time)
        return [
            median_range(timings["ours"].seconds),
            median_range(timings["theirs"].seconds),
            median_range(timings["ours"].speedups),
            f"{timings['ours'].difference:.4f}",
        ]

    rows = [
        Row(f"{count} images, one pass against two", 6, 40, partial(compared, "guidance")),
        Row(f"{count} images, against diffusers' pipeline", 6, 40, partial(compared, "pipeline")),
        Row(f"{priors} class images, against a loop", 6, 90, partial(compared, "priors")),
    ]
    head = "| | ours, s | theirs, s | ratio | images differ by | peak | not given back |"
    title = f"Sampling, Stable Diffusion 1.5 in fp16, {settings.steps} steps"
    run.table(title, head, run.rows(rows))


TRAINING_ROWS = (
    ("sd15", "lora", 512, 25),
    ("sd15", "full", 512, 35),
    ("sdxl", "lora", 512, 60),
    ("sd15", "lora", 1024, 30),
    ("sdxl", "lora", 1024, 60),
    ("sd15", "full", 1024, 45),
    ("sdxl", "full", 512, 120),
    ("sdxl", "full", 1024, 120),
)
"""Size, method, side in pixels, and seconds that both sides need; the most telling first."""

TRAINING_GIB = {
    ("sd15", "lora"): (4.0, 3.0),
    ("sd15", "full"): (18.0, 3.5),
    ("sdxl", "lora"): (9.0, 3.5),
    ("sdxl", "full"): (61.0, 3.0),
}
"""Size, method -> GiB that our training needs for weights, and for the activations of 512 pixels.

Estimates: a row that needs more is left out when it runs out of memory."""

SMALLEST_SIDE = 256


def training(run: Rehearsal) -> None:
    """Training against diffusers' loops, in mixed bf16, a subject and a class image a step."""
    head = (
        "| | ours, steps/s | diffusers' loop | ratio | peak, ours | theirs | row's peak | not "
        "given back |"
    )
    run.table("Training in bf16", head, run.rows(training_rows(run)))


def training_rows(run: Rehearsal) -> list[Row]:
    """Return the rows of training; where a side does not fit, a smaller one that does."""
    rows = []
    measured = {row[:3] for row in TRAINING_ROWS}
    for size, method, side, seconds in TRAINING_ROWS:
        if run.tiny and side != 512:
            continue
        name, taken = f"{size} {method}", _fitting_side(run, size, method, side, measured)
        measured.add((size, method, taken))
        if taken != side:
            run.left_out.append(f"- {name}, {side} pixels: {taken} pixels fit the memory instead")
        rows.append(
            Row(
                f"{name}, {taken} pixels",
                _training_gib(size, method, taken),
                seconds,
                partial(_trained, run, size, method, taken),
            )
        )
    return rows


def _trained(run: Rehearsal, size: str, method: str, side: int) -> list[str]:
    task = Task(
        method,
        _base(run, size),
        run.folder,
        steps=3 if run.tiny else 12,
        side=64 if run.tiny else side,
        precision="bf16",
        device=str(run.device),
    )
    ours, theirs = measure_training(task, 1, wall_time)
    if not ours.speeds:
        raise UserError("Ours ran out of memory: measure it on a card with more.")
    cells = [f"{ours.speeds[0]:.2f}", "out of memory", "", format_bytes(ours.peak), ""]
    if theirs.speeds:
        ratio = ours.speeds[0] / theirs.speeds[0]
        cells[1:3] = f"{theirs.speeds[0]:.2f}", f"{ratio:.2f}"
        cells[4] = format_bytes(theirs.peak)
    return cells


def _training_gib(size: str, method: str, side: int) -> float:
    weights, activations = TRAINING_GIB[size, method]
    return weights + activations * (side / 512) ** 2


def _fitting_side(run: Rehearsal, size: str, method: str, side: int, measured: set[Any]) -> int:
    """Return the side, or half of it or less where that fits and is not `measured`."""
    smaller = side
    while smaller >= SMALLEST_SIDE:
        if _training_gib(size, method, smaller) <= run.memory:
            return side if (size, method, smaller) in measured else smaller
        smaller //= 2
    return side


def train_sandbox(run: Rehearsal) -> None:
    """Train the sandbox's diffusion model, from the weights in git, in the time that is left."""
    if run.device.type != "cuda":
        return
    left = run.end - time.monotonic()
    if left < SANDBOX_SECONDS:
        reason = f"needs about {SANDBOX_SECONDS} s, of {max(left, 0):.0f} that were left"
        run.left_out.append(f"- training of the sandbox: {reason}")
        return
    minutes = (left - ENCODING_SECONDS) / 60
    options = (
        f"--device cuda --singles 4000 --pairs 4000 --batch 64 --rate 3e-4 --minutes {minutes}"
    )
    command = [sys.executable, "-m", "dev", "train-diffusion", *options.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or ["no output"]
    run.sections.append(
        f"## Training of the sandbox\n\n{minutes:.1f} minutes: {lines[-1]}. `python -m dev score` "
        "measures it; `git diff --stat sandbox` shows what changed."
    )


def _base(run: Rehearsal, size: str) -> Path:
    folder = run.folder / size
    if not folder.exists():
        random_diffusion(folder, SIZES[size], tiny=run.tiny, device=str(run.device))
    return folder


def main() -> None:
    """Run all sections and write the page."""
    options = parse_arguments(
        __doc__,
        minutes=(10.0, "no row starts that would end later"),
        cpu=(False, "on the CPU; with --tiny"),
        tiny=(False, "small models and few steps: a rehearsal, whose figures mean nothing"),
        out=(str(PAGE), "the page to write"),
    )
    if not torch.cuda.is_available() and not options.cpu:
        raise UserError(
            "There is no CUDA device here: run this on a machine with an NVIDIA GPU, or rehearse "
            "it with --cpu --tiny."
        )
    start = time.monotonic()
    device = torch.device("cpu" if options.cpu else "cuda")
    with tempfile.TemporaryDirectory() as name:
        run = Rehearsal(device, options.tiny, start + 60 * options.minutes, Path(name))
        cuda_tests(run)
        captions(run)
        _base(run, "sd15")
        sampling(run)
        training(run)
    train_sandbox(run)
    write_text(Path(options.out), page(run, options, time.monotonic() - start))
    log.info("Wrote %s", options.out)
    if run.failed:
        sys.exit(f"{len(run.failed)} rows failed: see {options.out}")


def page(run: Rehearsal, options: argparse.Namespace, seconds: float) -> str:
    """The Markdown page."""
    title = "# A rehearsal on small models" if run.tiny else "# On a GPU"
    sizes = "smallest" if run.tiny else "published"
    memory = "" if run.device.type != "cuda" else f", {run.memory:.0f} GiB"
    how = (
        f"{environment(run.device)}{memory}, diffusers {diffusers.__version__}, transformers "
        f"{transformers.__version__}. Random weights of the {sizes} sizes; measured in "
        f"{seconds / 60:.1f} minutes by `python -m dev gpu` (`make gpu`). *Not given back* is the "
        "memory that is still allocated after a row, its model included where the next row uses it."
    )
    sections = list(run.sections)
    if run.failed:
        sections.append("## Failed\n\n" + "\n".join(run.failed))
    if run.left_out:
        sections.append("## Left out\n\n" + "\n".join(run.left_out))
    return "\n\n".join([title, how, *sections]) + "\n"
