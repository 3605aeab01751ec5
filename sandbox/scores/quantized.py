"""Measures the sandbox's models in every format, and prints a table of points."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ...diffusion.load import load_diffusion
from ...diffusion.model import Diffusion
from ...kosmos.load import load_kosmos
from ...kosmos.model import Kosmos
from ...quantize.footprint import as_text, bytes_in_memory
from ...quantize.formats import FORMATS
from ...quantize.linear import quicken
from ...quantize.models import quantize_diffusion, quantize_kosmos
from ...quantize.saving import precision_of_rest
from .. import DIFFUSION, KOSMOS
from ..judge import load_judge
from .figure import CARD, Figure, environment
from .looking import captions
from .painting import paintings

BEGIN, END = "<!-- quantized -->", "<!-- end of quantized -->"
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
BITS = [name for name in FORMATS if name not in ("fp8", "fp16")]
"""The formats that every CPU computes with well."""


def captioners(formats: Sequence[str], trained: Mapping[str, Path]) -> Iterator[tuple[str, Kosmos]]:
    """The captioner in float32, in each format, and those that training left, one at a time."""
    kosmos = load_kosmos(KOSMOS, torch.float32)
    yield "fp32", kosmos
    for name in formats:
        yield name, quantize_kosmos(kosmos, name, rest=torch.bfloat16).model
    for name, folder in trained.items():
        rest = precision_of_rest(folder)
        kosmos = load_kosmos(folder, rest or torch.float32)
        if rest is not None:
            quicken(kosmos.model, name, "cpu")
        yield name, kosmos


def painters(
    formats: Sequence[str], trained: Mapping[str, Path]
) -> Iterator[tuple[str, Diffusion]]:
    """The painter likewise."""
    diffusion = load_diffusion(DIFFUSION)
    yield "fp32", diffusion
    for name in formats:
        yield name, quantize_diffusion(diffusion, name, rest=torch.bfloat16).model
    for name, folder in trained.items():
        rest = precision_of_rest(folder)
        diffusion = load_diffusion(folder, rest or torch.float32)
        if rest is not None:
            quicken(diffusion.modules, name, "cpu")
        yield name, diffusion


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
        yield f"| {name} | {as_text(bytes_in_memory(module))} | {' | '.join(cells)} |"


def _folders(pairs: list[str]) -> dict[str, Path]:
    return {name: Path(folder) for name, _, folder in (pair.partition("=") for pair in pairs)}


def main() -> None:
    """Read the command line, measure, print, and write the model card if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300, help="scenes for the captioner")
    parser.add_argument("--prompts", type=int, default=100, help="prompts for the painter")
    parser.add_argument("--formats", default=",".join(BITS), help="separated by commas")
    more = "another model, such as one that was trained aware of its format; may be repeated"
    for kind in ("captioner", "painter"):
        parser.add_argument(
            f"--{kind}", action="append", default=[], metavar="NAME=FOLDER", help=more
        )
    parser.add_argument("--write", action="store_true", help="write the tables into the card")
    options = parser.parse_args()
    began = time.monotonic()
    formats = [name for name in options.formats.split(",") if name in FORMATS]
    judge, eye = load_judge(), load_kosmos(KOSMOS, torch.float32)
    seen = (
        (name, kosmos.model, lambda kosmos=kosmos: captions(kosmos, options.scenes))
        for name, kosmos in captioners(formats, _folders(options.captioner))
    )
    painted = (
        (
            name,
            diffusion.modules,
            lambda diffusion=diffusion: paintings(diffusion, eye, judge, options.prompts),
        )
        for name, diffusion in painters(formats, _folders(options.painter))
    )
    lines = []
    for part in (table("captioner", SEEN, seen), [""], table("painter", PAINTED, painted)):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    minutes = (time.monotonic() - began) / 60
    lines += [
        "",
        f"`python sandbox/score_quantized.py --write` measured this on {options.scenes} scenes and "
        f"{options.prompts} prompts in {minutes:.0f} minutes ({environment()}).",
    ]
    print("\n".join(lines[-2:]))
    if options.write:
        head, rest = CARD.read_text(encoding="utf-8").split(BEGIN)
        CARD.write_text(
            "\n".join([head + BEGIN, *lines, END]) + rest.split(END)[1], encoding="utf-8"
        )
