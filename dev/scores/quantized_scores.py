"""Measure the sandbox's models in every quantized format, and print a table of percentages."""

from __future__ import annotations

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
from ...shared.model_size import bytes_in_memory, format_bytes
from ...training.config import QAT_FORMATS
from ..bench.timing import environment
from ..command_line import parse_arguments
from ..sandbox.scene_pool import Sample, as_images, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from . import qat_scores
from .caption_scores import captions
from .prompt_scores import prompt_adherence
from .score_table import CARD, Figure, put_figures

CAPTION_COLUMNS = {
    "captions: exactly the kinds that are there": "kinds",
    "captions: colours of the things": "colours",
    "captions: background": "background",
    "captions: mean IoU of the boxes": "IoU",
}
PROMPT_COLUMNS = {
    "kinds generated, by the judge": "kinds",
    "colours generated, by the judge": "colours",
    "background generated, by the judge": "background",
}
CPU_FORMATS = [name for name in QUANTIZE_FORMATS if name not in ("fp8", "fp16")]
"""Formats that every CPU supports efficiently."""


def captioners(kosmos: Kosmos, formats: Sequence[str]) -> Iterator[tuple[str, Kosmos]]:
    """The captioner in float32 and in each format, one at a time."""
    yield "fp32", kosmos
    for name in formats:
        run = captioning_run(kosmos, as_images(_calibration_samples()))
        yield (
            name,
            quantize_kosmos(kosmos, name, other_dtype=torch.bfloat16, calibration_run=run).model,
        )


def diffusion_models(
    diffusion: Diffusion, formats: Sequence[str]
) -> Iterator[tuple[str, Diffusion]]:
    """The same for the diffusion model; convolutions are not quantized."""
    yield "fp32", diffusion
    samples = _calibration_samples()
    for name in formats:
        prompts = [plain_text(brief(each.scene, each.boxes, pattern=False)) for each in samples]
        yield (
            name,
            quantize_diffusion(
                diffusion, name, calibration_run=sampling_run(diffusion, prompts)
            ).model,
        )


def _calibration_samples() -> list[Sample]:
    """Calibration data, which no score is measured on."""
    return draw_samples(qat_scores.FIRST_SEED, MAX_SAMPLES, KOSMOS_PIXELS)


def table(
    title: str,
    columns: Mapping[str, str],
    models: Iterator[tuple[str, torch.nn.Module, Callable[[], Iterator[Figure]]]],
) -> Iterator[str]:
    """The lines of a table: percentages of each model, and the difference to float32."""
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
    """Measure, print, and write the model card on request."""
    options = parse_arguments(
        __doc__,
        scenes=(300, "scenes for the captioner"),
        prompts=(100, "prompts for the diffusion model"),
        formats=(",".join(CPU_FORMATS), "separated by commas"),
        steps=(200, "of training with QAT for int8 and int4; 0 for no training"),
        write=(False, "write the tables into the card"),
    )
    start = time.monotonic()
    formats = [name for name in options.formats.split(",") if name in QUANTIZE_FORMATS]
    judge, kosmos = load_judge(), load_kosmos(KOSMOS, torch.float32)
    diffusion = load_diffusion(DIFFUSION)

    def caption_table(title: str, models: Iterator[tuple[str, Kosmos]]) -> Iterator[str]:
        measured = ((n, k.model, partial(captions, k, options.scenes)) for n, k in models)
        return table(title, CAPTION_COLUMNS, measured)

    def prompt_table(title: str, models: Iterator[tuple[str, Diffusion]]) -> Iterator[str]:
        measured = (
            (n, d.modules, partial(prompt_adherence, d, kosmos, judge, options.prompts))
            for n, d in models
        )
        return table(title, PROMPT_COLUMNS, measured)

    parts = [
        caption_table("captioner", captioners(kosmos, formats)),
        prompt_table("diffusion model", diffusion_models(diffusion, formats)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        if options.steps:
            training = (
                Path(folder),
                [name for name in formats if name in QAT_FORMATS],
                options.steps,
            )
            parts += [
                caption_table("captioner, fine-tuned", qat_scores.captioners(kosmos, *training)),
                prompt_table(
                    "diffusion model, personalised",
                    qat_scores.diffusion_models(diffusion, *training),
                ),
            ]
        lines = []
        for part in parts:
            for line in (*part, ""):
                print(line, flush=True)
                lines.append(line)
    minutes = (time.monotonic() - start) / 60
    source = (
        f"`python -m dev score-quantized --write` measured this on {options.scenes} scenes and "
        f"{options.prompts} prompts in {minutes:.0f} minutes ({environment()})."
    )
    print(source)
    if options.write:
        put_figures(CARD, "\n".join([*lines, source]), "quantized")
