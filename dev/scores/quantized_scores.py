"""Measures the sandbox's models in every format, and prints a table of points."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.model_source import load_diffusion
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...quantize.calibration_data import MAX_SAMPLES, captioning_run, sampling_run
from ...quantize.quantize_formats import QUANTIZE_FORMATS
from ...quantize.quantize_models import quantize_diffusion, quantize_kosmos
from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.judge import load_judge
from ...sandbox.world.captions import brief, plain_text
from ...shared.images import to_batch
from ...shared.model_size import bytes_in_memory, format_bytes
from ...training.config import QAT_FORMATS
from ..sandbox.scene_pool import Sample, draw_sample
from ..sandbox.tokenizers import KOSMOS_PIXELS
from . import qat_scores
from .caption_scores import captions
from .prompt_scores import paintings
from .score_table import CARD, Figure, environment, put_figures

SEEN = {
    "captions: exactly the kinds that are there": "kinds",
    "captions: colours of the things": "colours",
    "captions: background": "background",
    "captions: mean IoU of the boxes": "IoU",
}
PAINTED = {
    "kinds painted, by the judge": "kinds",
    "colours painted, by the judge": "colours",
    "background painted, by the judge": "background",
}
BITS = [name for name in QUANTIZE_FORMATS if name not in ("fp8", "fp16")]
"""The formats that every CPU computes with well."""


def captioners(kosmos: Kosmos, formats: Sequence[str]) -> Iterator[tuple[str, Kosmos]]:
    """The captioner in float32 and in each format, one at a time."""
    yield "fp32", kosmos
    for name in formats:
        run = captioning_run(kosmos, to_batch(scene.pixels for scene in _watched()))
        yield (
            name,
            quantize_kosmos(kosmos, name, other_dtype=torch.bfloat16, calibration_run=run).model,
        )


def painters(diffusion: Diffusion, formats: Sequence[str]) -> Iterator[tuple[str, Diffusion]]:
    """The painter likewise; what is not quantized, its convolutions, stays as it is."""
    yield "fp32", diffusion
    for name in formats:
        told = [plain_text(brief(each.scene, each.boxes, pattern=False)) for each in _watched()]
        yield (
            name,
            quantize_diffusion(
                diffusion, name, calibration_run=sampling_run(diffusion, told)
            ).model,
        )


def _watched() -> list[Sample]:
    """What calibrated formats go by; no score is taken on it."""
    return [draw_sample(qat_scores.FIRST_SEED + k, KOSMOS_PIXELS) for k in range(MAX_SAMPLES)]


def table(
    title: str,
    columns: Mapping[str, str],
    models: Iterator[tuple[str, torch.nn.Module, Callable[[], Iterator[Figure]]]],
) -> Iterator[str]:
    """The lines of a table: points of each model, and how many more than float32 in brackets."""
    yield f"| {title} | size | {' | '.join(columns.values())} |"
    yield f"|---|---|{'---|' * len(columns)}"
    first: dict[str, float] = {}
    for name, module, measure in models:
        shares = {figure.name: 100 * figure.share for figure in measure()}
        first = first or shares
        cells = [
            f"{shares[column]:.1f}"
            + (f" ({shares[column] - first[column]:+.1f})" if shares is not first else "")
            for column in columns
        ]
        yield f"| {name} | {format_bytes(bytes_in_memory(module))} | {' | '.join(cells)} |"


def main() -> None:
    """Read the command line, measure, print, and write the model card if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300, help="scenes for the captioner")
    parser.add_argument("--prompts", type=int, default=100, help="prompts for the painter")
    parser.add_argument("--formats", default=",".join(BITS), help="separated by commas")
    parser.add_argument(
        "--steps", type=int, default=200, help="of training aware of int8 and int4; 0 trains none"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into the card")
    options = parser.parse_args()
    began = time.monotonic()
    formats = [name for name in options.formats.split(",") if name in QUANTIZE_FORMATS]
    judge, kosmos = load_judge(), load_kosmos(KOSMOS, torch.float32)
    diffusion = load_diffusion(DIFFUSION)

    def captioner(title: str, models: Iterator[tuple[str, Kosmos]]) -> Iterator[str]:
        measured = ((n, k.model, partial(captions, k, options.scenes)) for n, k in models)
        return table(title, SEEN, measured)

    def painter(title: str, models: Iterator[tuple[str, Diffusion]]) -> Iterator[str]:
        measured = (
            (n, d.modules, partial(paintings, d, kosmos, judge, options.prompts)) for n, d in models
        )
        return table(title, PAINTED, measured)

    parts = [
        captioner("captioner", captioners(kosmos, formats)),
        painter("painter", painters(diffusion, formats)),
    ]
    with tempfile.TemporaryDirectory() as place:
        if options.steps:
            taught = Path(place), [name for name in formats if name in QAT_FORMATS], options.steps
            parts += [
                captioner("captioner, taught more scenes", qat_scores.captioners(kosmos, *taught)),
                painter("painter, taught a subject", qat_scores.painters(diffusion, *taught)),
            ]
        lines = []
        for part in parts:
            for line in (*part, ""):
                print(line, flush=True)
                lines.append(line)
    minutes = (time.monotonic() - began) / 60
    made = (
        f"`python -m dev score-quantized --write` measured this on {options.scenes} scenes and "
        f"{options.prompts} prompts in {minutes:.0f} minutes ({environment()})."
    )
    print(made)
    if options.write:
        put_figures(CARD, "\n".join([*lines, made]), "quantized")
