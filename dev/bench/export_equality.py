"""Measure what exporting costs and gains: sizes, seconds, differences, captions and their speed.

The sandbox's models are exported in each format that is installed here and in each precision. ONNX
captioners then describe the same scenes as PyTorch: tokens are compared, and turns are timed. With
`--size real` the captioner is a Kosmos-2 of the published size with random weights.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from ...diffusion.load.model_source import load_diffusion
from ...export.export_diffusion import export_diffusion
from ...export.export_folder import Manifest
from ...export.export_formats import EXPORT_FORMATS, format_module
from ...export.export_kosmos import export_kosmos
from ...export.onnx_kosmos import load_onnx_kosmos
from ...export.tolerance import PRECISIONS
from ...kosmos.generate.caption import BRIEF
from ...kosmos.generate.completion import Completion, generate
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.prompt import tokenize
from ...sandbox import DIFFUSION
from ...sandbox.world.scene import HELD_OUT
from ...shared.batching import BatchOptions
from ...shared.errors import UserError
from ...shared.peak_memory import watch_peak
from ..command_line import parse_arguments
from ..sandbox.scene_pool import as_images, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .caption_speed import SIZES, load
from .timing import CPU_TIME, Clock, Turns, clock_for, environment

log = logging.getLogger(__name__)

MODELS = ("captioner", "diffusion")
COMPARED = 4
"""Images on which each graph is compared while it is exported."""


def _scenes(count: int) -> torch.Tensor:
    return as_images(draw_samples(HELD_OUT, count, KOSMOS_PIXELS))


def _captions(kosmos: Kosmos, batch_size: int, images: torch.Tensor) -> list[Completion]:
    """A brief caption of each image."""
    prompts = [[tokenize(kosmos, BRIEF, 64)]] * len(images)
    batching = BatchOptions(batch_size=batch_size)
    completions = generate(
        kosmos, EncodedImages(kosmos, images), prompts, max_new_tokens=64, batching=batching
    )
    return [completion for (completion,) in completions]


def _token_count(kosmos: Kosmos, batch_size: int, images: torch.Tensor) -> int:
    return sum(len(one.ids) + one.finished for one in _captions(kosmos, batch_size, images))


def measure_export(clock: Clock, export: Callable[[], Manifest]) -> None:
    """Export, and log seconds, peak memory, and size and difference of each graph."""
    start, peak = clock(), watch_peak(torch.device("cpu"))
    manifest = export()
    seconds = clock() - start
    parts = ", ".join(
        f"{Path(part['file']).stem} {part['bytes'] / 1e6:.1f} MB "
        + ("not run" if part["difference"] is None else f"{part['difference']:.1e}")
        for part in manifest.parts
    )
    log.info(
        "%s %s, %.0f s, %.2f GB of memory: %s",
        EXPORT_FORMATS[manifest.format].title,
        manifest.precision,
        seconds,
        (peak() if peak else 0) / 1e9,
        parts,
    )


def compare_captions(
    kosmos: Kosmos,
    exported: Mapping[str, Kosmos],
    images: torch.Tensor,
    batch_size: int,
    repeats: int,
    clock: Clock,
) -> None:
    """Log how many captions of the exported models equal PyTorch's, and time them all."""
    expected = _captions(kosmos, batch_size, images)
    for name, model in exported.items():
        log.info("%s: %s", name, agreement(_captions(model, batch_size, images), expected))
    models = {"PyTorch fp32": kosmos, **exported}
    subset = images[: 2 * batch_size]
    for size in (1, batch_size):
        functions = {name: partial(_token_count, model, size) for name, model in models.items()}
        table = Turns(functions, subset, repeats, clock).table(dict.fromkeys(models, len(subset)))
        log.info("\nbatch size %d\n%s", size, table)


def agreement(completions: Sequence[Completion], expected: Sequence[Completion]) -> str:
    """How many captions are equal, and the largest difference of their tokens' probabilities."""
    equal = [(a, b) for a, b in zip(completions, expected, strict=True) if a.ids == b.ids]
    difference = max(
        abs(p - q) for a, b in equal for p, q in zip(a.probabilities, b.probabilities, strict=True)
    )
    return (
        f"{len(equal)} of {len(expected)} captions token for token, probabilities at most "
        f"{difference:.1e} off"
    )


def installed(names: Sequence[str]) -> list[str]:
    """The formats whose packages are installed; the others are logged."""
    formats = []
    for name in names:
        try:
            format_module(name)
        except UserError as error:
            log.info("%s is left out: %s", EXPORT_FORMATS[name].title, error)
        else:
            formats.append(name)
    return formats


def main() -> None:
    """Export, compare and print."""
    options = parse_arguments(
        __doc__,
        size=SIZES,
        images=100,
        batch=8,
        repeats=3,
        formats={"nargs": "+", "choices": list(EXPORT_FORMATS), "default": list(EXPORT_FORMATS)},
        precisions={"nargs": "+", "choices": PRECISIONS, "default": PRECISIONS},
        models={"nargs": "+", "choices": MODELS, "default": MODELS},
        cpu_time=CPU_TIME,
    )
    clock, formats = clock_for(options.cpu_time), installed(options.formats)
    packages = [package for name in formats for package in EXPORT_FORMATS[name].packages]
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    log.info("%s, %s", environment(), versions)

    examples = _scenes(COMPARED)
    with tempfile.TemporaryDirectory() as name:
        if "captioner" in options.models:
            kosmos = load(options.size, "cpu")
            exported = {}
            for format_ in formats:
                for precision in options.precisions:
                    folder = Path(name) / f"{format_}_{precision}"
                    export = partial(export_kosmos, kosmos, folder, format_, precision, examples)
                    measure_export(clock, export)
                    if format_ == "onnx":
                        exported[f"ONNX {precision}"] = load_onnx_kosmos(folder)
            if exported:
                images = _scenes(options.images)
                compare_captions(kosmos, exported, images, options.batch, options.repeats, clock)
        if "diffusion" in options.models and "onnx" in formats:
            diffusion = load_diffusion(DIFFUSION)
            for precision in options.precisions:
                folder = Path(name) / f"diffusion_{precision}"
                export = partial(export_diffusion, diffusion, folder, "onnx", precision, examples)
                measure_export(clock, export)
