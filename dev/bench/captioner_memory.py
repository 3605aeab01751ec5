"""Measure the time and memory of what the captioner's nodes do, on a model of the published size.

A Kosmos-2 of the published configuration is written to disk in bfloat16 with random weights and
loaded, then regions are described, images and texts embedded, a folder captioned, the model
quantized and fine-tuned, each briefly.
"""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ...kosmos.files.folder_captions import CaptionFolderOptions, caption_folder
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.generate.regions import describe_regions
from ...kosmos.grounding import Box, parse
from ...kosmos.insight.decoder_space import caption_states, text_states
from ...kosmos.insight.likelihood import likelihood_scores
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...quantize.calibration_data import captioning_run
from ...quantize.compare_models import compare_captioners
from ...quantize.quantize_models import quantize_kosmos
from ...sandbox import KOSMOS
from ...sandbox.world.scene import HELD_OUT
from ...shared.images import to_batch, to_pil
from ...shared.model_size import bytes_in_memory, format_bytes
from ...shared.peak_memory import watch_peak
from ...training.captions.caption_config import CaptionConfig
from ...training.captions.caption_dataset import Example, examples_fingerprint, write_examples
from ...training.run.run_folder import find_or_create
from ...training.run.stop_request import StopRequest
from ...training.run.train_loop import train
from ..command_line import parse_arguments
from ..sandbox.scene_pool import draw_samples
from .caption_speed import SIZES, load
from .timing import CPU_TIME, DEVICE, Clock, clock_for, environment

log = logging.getLogger(__name__)

TEXTS = ("a red dog", "a blue house in the snow")
BOXES = (Box(0.1, 0.1, 0.5, 0.6), Box(0.4, 0.2, 0.9, 0.9))
CAPTION = "<phrase> ein roter Hund</phrase><object><patch_index_0044><patch_index_0863></object>"
LABELS = {
    "DescribeRegion": "2 regions of 2 images, 8 tokens each",
    "EmbedImageText, decoder": "2 images and 2 texts",
    "EmbedImageText, likelihood": "2 images and 2 texts",
    "CaptionFolder": "2 images, 16 tokens each",
    "Quantize, int8": "and 2 images captioned with both models",
    "FineTuneCaptions": "2 steps of 1 caption, bf16, rank 16",
}
"""The rows, and what is done in each."""


def main() -> None:
    """Print a table row for each kind of work as soon as it is measured."""
    options = parse_arguments(
        __doc__,
        size=SIZES,
        rows={"nargs": "+", "choices": list(LABELS), "default": list(LABELS)},
        base=("", "folder in which the random model is kept, and read from the next time"),
        device=DEVICE,
        cpu_time=CPU_TIME,
    )
    device, clock = torch.device(options.device), clock_for(options.cpu_time)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = KOSMOS
        if options.size == "real":
            base = Path(options.base) if options.base else folder / "kosmos"
            if not base.exists():
                random_kosmos(base)
        images = to_batch(one.pixels for one in draw_samples(HELD_OUT, 2, 224))
        log.info("%s", environment(device))
        log.info("| | | seconds | peak, weights included |")
        log.info("|---|---|---|---|")
        for row in options.rows:
            seconds, peak = _measure(_work(row, base, device, images, folder), device, clock)
            size = format_bytes(peak) if peak else ""
            log.info("| %s | %s | %.0f | %s |", row, LABELS[row], seconds, size)


def random_kosmos(folder: Path) -> None:
    """Write a Kosmos-2 of the published size with random weights in bfloat16 (3.3 GB)."""
    kosmos = load("real", "cpu", torch.bfloat16)
    kosmos.model.save_pretrained(folder)
    kosmos.processor.save_pretrained(folder)


def _measure(work: Iterator[None], device: torch.device, clock: Clock) -> tuple[float, int]:
    """Return the seconds of the second part of a work, and the peak memory of both in bytes.

    Memory that was in use before, by Python's modules and not by models, does not count.
    """
    gc.collect()
    peak = watch_peak(device)
    next(work)
    start = clock()
    next(work, None)
    return clock() - start, peak() if peak else 0


def _work(
    row: str, base: Path, device: torch.device, images: torch.Tensor, folder: Path
) -> Iterator[None]:
    """Load a model, yield, and do the work of a row."""
    if row == "FineTuneCaptions":
        yield
        _fine_tune(base, device, images, folder)
        return
    kosmos = load_kosmos(base, torch.bfloat16)
    kosmos.model.to(device)
    yield
    WORK[row](kosmos, images, folder)


def _describe(kosmos: Kosmos, images: torch.Tensor, _: Path) -> None:
    describe_regions(kosmos, EncodedImages(kosmos, images), [BOXES] * len(images), max_new_tokens=8)


def _embed(kosmos: Kosmos, images: torch.Tensor, _: Path) -> None:
    caption_states(kosmos, images)
    text_states(kosmos, TEXTS)


def _caption_folder(kosmos: Kosmos, images: torch.Tensor, folder: Path) -> None:
    for number, image in enumerate(images):
        to_pil(image).save(folder / f"{number}.png")
    report = caption_folder(kosmos, folder, CaptionFolderOptions(max_new_tokens=16, overwrite=True))
    log.debug("%s", report)


def _quantize(kosmos: Kosmos, images: torch.Tensor, _: Path) -> None:
    run = captioning_run(kosmos, images)
    quantized = quantize_kosmos(kosmos, "int8", ["lm_head"], torch.bfloat16, run).model
    compare_captioners(kosmos, quantized, images)
    log.debug("%s", format_bytes(bytes_in_memory(quantized.model)))


def _fine_tune(base: Path, device: torch.device, images: torch.Tensor, folder: Path) -> None:
    examples = [
        Example((image * 255).byte().numpy(), parse(f"{CAPTION} auf der Wiese."))
        for image in images
    ]
    config = CaptionConfig(
        base=str(base),
        language="German",
        prompt="Ein Bild von",
        data=examples_fingerprint(examples),
        steps=2,
        batch_size=1,
        precision="bf16",
        preview_every=0,
        device=str(device.type) if device.type == "cpu" else "auto",
    )
    run = find_or_create(
        folder, "run", config, lambda run: write_examples(run.images, examples), resume=False
    )
    train(run, StopRequest())


WORK: dict[str, Callable[[Kosmos, torch.Tensor, Path], None]] = {
    "DescribeRegion": _describe,
    "EmbedImageText, decoder": _embed,
    "EmbedImageText, likelihood": lambda kosmos, images, _: (
        likelihood_scores(kosmos, images, TEXTS),
        None,
    )[1],
    "CaptionFolder": _caption_folder,
    "Quantize, int8": _quantize,
}
"""What is done with a loaded model and two images; files go into a folder."""
