"""Measure what each training option is worth, with one run per variant and seed.

Each run's scores and images are cached in `.cache/ablation`: called again, the command continues
with the missing runs; then it prints the table and draws the sheet.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from ...as_package import ROOT
from ...diffusion.diffusion_model import Diffusion
from ...diffusion.fingerprint import fingerprint
from ...diffusion.load.model_source import load_diffusion
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.judge import Judge, load_judge
from ...shared.atomic_files import write_text
from ...shared.images import to_pil
from ...training.config import TrainingConfig, suggested_learning_rate
from ..bench.timing import environment
from ..command_line import parse_arguments
from .ablation_variants import OPTIONS, OTHERS, PRIORS, VARIANTS, Variant
from .personalisation_scores import OTHER_PROMPTS, personalise, score_run
from .prompt_scores import colours_match, generate_scenes, kinds_match
from .score_table import put_figures

log = logging.getLogger(__name__)

CACHE = ROOT / ".cache" / "ablation"
PAGE, SHEET = ROOT / "docs" / "ablation.md", ROOT / "docs" / "ablation.png"
SHOWN, SIDE, LETTERS = 5, 96, 15
TABLE_HEAD = (
    "| training | runs | subject | in new scenes | subject similarity | scene obeyed | class kept "
    "| in new scenes | class drift | diversity kept | other objects | their colours |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Scores:
    """One run's scores, in the order of the table: shares of the images in `RunScores`.

    `kept` is its `class_kept`, `obeyed` its `background`. `diversity` is that of "a dog" after
    training, relative to before. `others` and `other_colours` are the images of prompts about
    other things that show exactly their kinds, and the things in them that have their colour.
    """

    subject: float
    scenes: float
    similarity: float
    obeyed: float
    kept: float
    kept_in_scenes: float
    drift: float
    diversity: float
    others: float
    other_colours: float


class Ablation:
    """The cached runs of one base model, number of steps and number of images.

    The cache key contains all settings, defaults included.
    """

    def __init__(self, base: Diffusion, steps: int, images: int) -> None:
        self._base, self._steps, self._images = base, steps, images
        self._rate = suggested_learning_rate(TrainingConfig.method, base.unet.num_parameters())
        self._folder = CACHE / f"{fingerprint(base)[:12]}_{images}_{OTHER_PROMPTS}"

    def _changes(self, variant: Variant) -> dict[str, Any]:
        """Return a variant's fields of TrainingConfig, with its number of steps."""
        changes = dict(variant.changes) | {"steps": round(self._steps * variant.length)}
        for name, factor in variant.rates.items():
            changes[name] = factor * self._rate
        return changes

    def _file(self, variant: Variant, seed: int) -> Path:
        optional = (one for one in fields(TrainingConfig) if one.default is not MISSING)
        defaults = {one.name: one.default for one in optional}
        settings = defaults | self._changes(variant)
        digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
        name = variant.name.replace(" ", "_").replace(":", "")
        return self._folder / f"{name}_{digest}_{seed}.json"

    def scores(self, variant: Variant, seed: int) -> Scores | None:
        """Return a run's scores, None if it is not cached."""
        file = self._file(variant, seed)
        return Scores(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def strip(self, variant: Variant, seed: int) -> Image.Image:
        """Return a run's images in one row: the subject in new scenes, then its class."""
        with Image.open(self._file(variant, seed).with_suffix(".png")) as image:
            return image.convert("RGB")

    def run(self, variant: Variant, seed: int, kosmos: Kosmos, judge: Judge) -> Scores:
        """Train, score, and cache scores and images."""
        with tempfile.TemporaryDirectory() as folder:
            result = personalise(
                self._base,
                Path(folder),
                CACHE / "priors",
                self._images,
                seed,
                prior=variant.prior,
                **self._changes(variant),
            )
        run = score_run(result, kosmos, judge)
        images, facts = generate_scenes(result.model, OTHER_PROMPTS)
        predictions = judge.classify(images)
        scores = Scores(
            subject=statistics.mean(run.subject),
            scenes=statistics.mean(run.scenes),
            similarity=run.similarity,
            obeyed=statistics.mean(run.background),
            kept=statistics.mean(run.class_kept),
            kept_in_scenes=statistics.mean(run.class_scenes_kept),
            drift=run.drift,
            diversity=run.diversity_after / run.diversity_before,
            others=statistics.mean(kinds_match(predictions, facts)),
            other_colours=statistics.mean(colours_match(predictions, facts)),
        )
        shown = [*result.scenes[:SHOWN], *result.class_scenes[:SHOWN]]
        file = self._file(variant, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        to_pil(torch.cat(shown, 1)).save(file.with_suffix(".png"))
        write_text(file, json.dumps(asdict(scores)))
        return scores


def row(name: str, runs: Sequence[Scores]) -> str:
    """Return a variant's table row: mean (minimum to maximum) over its runs."""
    cells = []
    for one in fields(Scores):
        values = [getattr(scores, one.name) for scores in runs]
        mean, low, high = (round(100 * f(values)) for f in (statistics.mean, min, max))
        cells.append(f"{mean} ({low} to {high})")
    return f"| {name} | {len(runs)} | {' | '.join(cells)} |"


def draw(ablation: Ablation, seed: int) -> Image.Image:
    """Draw a labelled row of images for each variant that was run with a seed."""
    done = [variant for variant in VARIANTS if ablation.scores(variant, seed)]
    font = ImageFont.load_default(LETTERS)
    height, middle = SIDE + LETTERS + 14, SIDE // 4
    width = 2 * SHOWN * SIDE + middle
    page = Image.new("RGB", (width, height * len(done)), (252, 248, 240))
    pen = ImageDraw.Draw(page)
    for k, variant in enumerate(done):
        top, half = k * height, SHOWN * SIDE
        strip = ablation.strip(variant, seed).resize((2 * half, SIDE), Image.Resampling.BICUBIC)
        page.paste(strip.crop((0, 0, half, SIDE)), (0, top + LETTERS + 10))
        page.paste(strip.crop((half, 0, 2 * half, SIDE)), (half + middle, top + LETTERS + 10))
        pen.text((4, top + 4), f"{variant.name}: the subject in new scenes", (42, 36, 64), font)
        pen.text((half + middle, top + 4), "a dog in them", (42, 36, 64), font)
    return page


def main() -> None:
    """Do the missing runs, print the table, and write it on request."""
    options = parse_arguments(
        __doc__,
        runs=(3, "seeds per variant"),
        steps=(TrainingConfig.steps, "of each run"),
        images=(32, "images for each score"),
        minutes=(math.inf, "start no run after that; call again to continue"),
        only={"nargs": "+", "default": [""], "help": "parts of the names of variants to train"},
        write=(False, "write docs/ablation.md and .png"),
    )
    start = time.monotonic()
    base = load_diffusion(DIFFUSION)
    kosmos, judge = load_kosmos(KOSMOS, torch.float32), load_judge()
    ablation = Ablation(base, options.steps, options.images)
    table: dict[str, list[Scores]] = {variant.name: [] for variant in VARIANTS}
    seeds = range(options.runs)
    for seed, variant in chain.from_iterable(product(seeds, g) for g in (PRIORS, OPTIONS, OTHERS)):
        scores = ablation.scores(variant, seed)
        selected = any(part in variant.name for part in options.only)
        if scores is None and selected and time.monotonic() - start < 60 * options.minutes:
            log.info("%s, seed %d: started", variant.name, seed)
            scores = ablation.run(variant, seed, kosmos, judge)
            log.info("%s, seed %d: %s", variant.name, seed, scores)
        if scores is not None:
            table[variant.name].append(scores)
    rows = "\n".join([TABLE_HEAD, *(row(name, runs) for name, runs in table.items() if runs)])
    print(rows)
    if options.write:
        source = (
            f"`python -m dev score-ablation --runs {options.runs} --steps {options.steps} "
            f"--images {options.images} --write` measured this ({environment()})."
        )
        put_figures(PAGE, f"{rows}\n\n{source}")
        draw(ablation, 0).save(SHEET, optimize=True)
