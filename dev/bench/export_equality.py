"""What exporting costs and gains: sizes, seconds, differences, captions, and how fast they come.

The sandbox's models are exported in each format that is installed here and in each precision. ONNX
captioners then describe the same scenes as PyTorch: tokens are compared, and turns are timed. With
`--size real` the captioner is a Kosmos-2 of the published size with random weights.
"""

from __future__ import annotations

import argparse
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
from ...export.tolerance import PRECISIONS, Precision
from ...kosmos.generate.caption import BRIEF
from ...kosmos.generate.completion import Completion, generate
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.prompt import tokenize
from ...sandbox import DIFFUSION
from ...sandbox.world.scene import HELD_OUT
from ...shared.batching import BatchOptions
from ...shared.errors import UserError
from ...shared.images import to_batch
from ...shared.peak_memory import watch_peak
from ..sandbox.scene_pool import draw_sample
from .caption_speed import load
from .timing import Clock, Turns, add_clock, environment

log = logging.getLogger(__name__)

MODELS = ["captioner", "painter"]

COMPARED = 4
"""Pictures on which each graph is compared while it is exported."""


def scenes(count: int) -> torch.Tensor:
    """Scenes [count,112,112,3], float 0..1, that the sandbox was not trained on."""
    drawn = [draw_sample(HELD_OUT + k, 112).pixels for k in range(count)]
    return to_batch(drawn)


def describe(kosmos: Kosmos, images: torch.Tensor, batch_size: int) -> list[Completion]:
    """A brief caption of each picture, as tokens, to its end."""
    prompt = tokenize(kosmos, BRIEF, 64)
    batching = BatchOptions(batch_size=batch_size)
    asked = [[prompt]] * len(images)
    replies = generate(
        kosmos, EncodedImages(kosmos, images), asked, max_new_tokens=64, batching=batching
    )
    return [only for (only,) in replies]


def timed(clock: Clock, export: Callable[[], Manifest]) -> None:
    """Export, and print a row: seconds, memory beside the model, size and difference of graphs."""
    began, risen = clock(), watch_peak(torch.device("cpu"))
    manifest = export()
    seconds = clock() - began
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
        (risen() if risen else 0) / 1e9,
        parts,
    )


def captioners(
    kosmos: Kosmos,
    folder: Path,
    formats: Sequence[str],
    precisions: Sequence[Precision],
    clock: Clock,
) -> dict[Precision, Kosmos]:
    """Export the captioner in some formats and precisions; return those that run here."""
    found: dict[Precision, Kosmos] = {}
    for format_ in formats:
        for precision in precisions:
            place = folder / f"{format_}_{precision}"
            given = (kosmos, place, format_, precision, scenes(COMPARED))
            timed(clock, partial(export_kosmos, *given))
            if format_ == "onnx":
                found[precision] = load_onnx_kosmos(place)
    return found


def painters(folder: Path, precisions: Sequence[Precision], clock: Clock) -> None:
    """Export the painter as ONNX in some precisions."""
    painter = load_diffusion(DIFFUSION)
    for precision in precisions:
        place = folder / f"painter_{precision}"
        given = (painter, place, "onnx", precision, scenes(COMPARED))
        timed(clock, partial(export_diffusion, *given))


def compare(
    kosmos: Kosmos,
    found: Mapping[Precision, Kosmos],
    images: torch.Tensor,
    batch_size: int,
    repeats: int,
    clock: Clock,
) -> None:
    """Let all captioners describe the same scenes; count what is the same, and time it."""
    theirs = describe(kosmos, images, batch_size)
    for precision, ours in found.items():
        log.info("ONNX %s: %s", precision, same(describe(ours, images, batch_size), theirs))
    ways = {"PyTorch fp32": kosmos} | {f"ONNX {key}": one for key, one in found.items()}
    work = images[: 2 * batch_size]
    for batch in (1, batch_size):
        each = {name: partial(_tokens, one, batch) for name, one in ways.items()}
        turns = Turns(each, work, repeats, clock)
        table = turns.table(dict.fromkeys(ways, len(work)))
        log.info("\n%d at a time\n%s", batch, table)


def same(ours: Sequence[Completion], theirs: Sequence[Completion]) -> str:
    """How many captions are the same, and how far the probabilities of their tokens differ."""
    pairs = list(zip(ours, theirs, strict=True))
    alike = sum(a.ids == b.ids for a, b in pairs)
    far = max(
        abs(p - q)
        for a, b in pairs
        if a.ids == b.ids
        for p, q in zip(a.probabilities, b.probabilities, strict=True)
    )
    return f"{alike} of {len(pairs)} captions token for token, probabilities at most {far:.1e} off"


def installed(names: Sequence[str]) -> list[str]:
    """Those of the formats whose packages are here; the log says which are not."""
    found = []
    for name in names:
        try:
            format_module(name)
        except UserError as error:
            log.info("%s is left out: %s", EXPORT_FORMATS[name].title, error)
        else:
            found.append(name)
    return found


def main() -> None:
    """Read the command line, export, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["sandbox", "real"], default="sandbox")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--formats", nargs="+", choices=list(EXPORT_FORMATS), default=list(EXPORT_FORMATS)
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    add_clock(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    formats = installed(options.formats)
    packages = [package for name in formats for package in EXPORT_FORMATS[name].packages]
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    log.info("%s, %s", environment(torch.device("cpu")), versions)

    with tempfile.TemporaryDirectory() as folder:
        if "captioner" in options.models:
            kosmos = load(options.size, "cpu")
            found = captioners(kosmos, Path(folder), formats, options.precisions, options.clock)
            if found:
                images = scenes(options.pictures)
                compare(kosmos, found, images, options.batch, options.repeats, options.clock)
        if "painter" in options.models and "onnx" in formats:
            painters(Path(folder), options.precisions, options.clock)


def _tokens(kosmos: Kosmos, batch: int, images: torch.Tensor) -> int:
    return sum(len(one.ids) + one.finished for one in describe(kosmos, images, batch))
