"""Trains the demo's subject in several ways, a run for each way and seed, and compares them.

Each run's scores and pictures are kept in `.cache/ablation`: called again, the command goes on
where it was, and when all is there it prints the table and draws the sheet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import product
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from ...as_package import ROOT
from ...diffusion.diffusion_model import Diffusion
from ...diffusion.fingerprint import fingerprint
from ...diffusion.load.model_source import load_diffusion
from ...kosmos.generate.caption import caption
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.judge import Judge, load_judge
from ...sandbox.world.individual import SUBJECT
from ...shared.atomic_files import write_text
from ...shared.images import to_batch, to_pil
from ...training.config import TrainingConfig
from ...training.evaluate.evaluate_run import mean_distance
from ..sandbox.caption_facts import read
from ..sandbox.draw_subject import portraits
from .ablation_variants import OPTIONS, PRIORS, VARIANTS, Variant
from .personalisation_scores import Personal, nearer, personalise
from .score_table import environment, put_figures

log = logging.getLogger(__name__)

KEPT = ROOT / ".cache" / "ablation"
PAGE, SHEET = ROOT / "docs" / "ablation.md", ROOT / "docs" / "ablation.png"
SHOWN, SIDE, LETTERS = 5, 96, 15
TABLE_HEAD = (
    "| training | runs | subject | in new scenes | likeness | scene obeyed "
    "| class kept | in new scenes | class drift | diversity kept |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Scores:
    """What one run came to.

    Shares in 0..1: `subject` and `scenes`, pictures of "a sks dog" that are nearer to the subject
    than to its class; `obeyed`, backgrounds as the prompt says; `kept`, pictures of "a dog" that
    are one and are not nearer to the subject; `kept_in_scenes`, pictures of "a dog" in new scenes
    that are not nearer to the subject than to the base model's dogs there. `likeness` is the mean
    cosine to the subject's pictures, in new scenes; `drift` what that of "a dog" has risen by.
    `diversity` is how varied "a dog" is, over what it was.
    """

    subject: float
    scenes: float
    likeness: float
    obeyed: float
    kept: float
    kept_in_scenes: float
    drift: float
    diversity: float


def score(made: Personal, kosmos: Kosmos, judge: Judge) -> Scores:
    """Measure what a run paints."""
    four = to_batch(portraits(64))
    own, before, after = (judge.embed(p) for p in (four, made.class_before, made.class_after))
    scenes = judge.embed(made.scenes)
    named = [SUBJECT.kind in read(told.caption).kinds for told in caption(kosmos, made.class_after)]
    mistaken = nearer(after, own, before)
    elsewhere = judge.embed(made.class_scenes_before)
    grounds = [seen.background for seen in judge.look(made.scenes)]
    return Scores(
        subject=_share(nearer(judge.embed(made.subject), own, before)),
        scenes=_share(nearer(scenes, own, before)),
        likeness=float((scenes @ own.T).mean()),
        obeyed=_share([a == b for a, b in zip(grounds, made.asked, strict=True)]),
        kept=_share([dog and not m for dog, m in zip(named, mistaken, strict=True)]),
        kept_in_scenes=1 - _share(nearer(judge.embed(made.class_scenes), own, elsewhere)),
        drift=float((after @ own.T).mean() - (before @ own.T).mean()),
        diversity=mean_distance(after) / mean_distance(before),
    )


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers)


class Ablation:
    """All runs of one base model and one number of steps, as far as they are done.

    A run is another one when any setting is, be it only by its default.
    """

    def __init__(self, base: Diffusion, steps: int, pictures: int) -> None:
        self._base, self._steps, self._pictures = base, steps, pictures
        self._folder = KEPT / f"{fingerprint(base)[:12]}_{pictures}"

    def _file(self, variant: Variant, seed: int) -> Path:
        optional = (one for one in fields(TrainingConfig) if one.default is not MISSING)
        defaults = {one.name: one.default for one in optional}
        settings = defaults | dict(variant.changes) | {"steps": self._steps}
        digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
        name = variant.name.replace(" ", "_").replace(":", "")
        return self._folder / f"{name}_{digest}_{seed}.json"

    def scores(self, variant: Variant, seed: int) -> Scores | None:
        """Return a run's scores, None before it is done."""
        file = self._file(variant, seed)
        return Scores(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def strip(self, variant: Variant, seed: int) -> Image.Image:
        """Return what a run painted: the subject in new scenes, then its class."""
        with Image.open(self._file(variant, seed).with_suffix(".png")) as picture:
            return picture.convert("RGB")

    def run(self, variant: Variant, seed: int, kosmos: Kosmos, judge: Judge) -> Scores:
        """Train and measure, and keep what came of it."""
        with tempfile.TemporaryDirectory() as folder:
            made = personalise(
                self._base,
                Path(folder),
                KEPT / "priors",
                self._pictures,
                seed,
                prior=variant.prior,
                steps=self._steps,
                **variant.changes,
            )
        scores = score(made, kosmos, judge)
        shown = [*made.scenes[:SHOWN], *made.class_scenes[:SHOWN]]
        file = self._file(variant, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        to_pil(torch.cat(shown, 1)).save(file.with_suffix(".png"))
        write_text(file, json.dumps(asdict(scores)))
        return scores


def row(name: str, runs: Sequence[Scores]) -> str:
    """Return a variant's row: the mean of its runs and, in brackets, the least and the most."""
    cells = []
    for one in fields(Scores):
        values = [getattr(scores, one.name) for scores in runs]
        middle, low, high = (round(100 * f(values)) for f in (statistics.mean, min, max))
        cells.append(f"{middle} ({low} to {high})")
    return f"| {name} | {len(runs)} | {' | '.join(cells)} |"


def draw(ablation: Ablation, seed: int) -> Image.Image:
    """Draw a row of pictures for each variant that was run with a seed, its name above."""
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
    """Read the command line, do the runs that are missing, print the table, write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="seeds for each variant")
    parser.add_argument("--steps", type=int, default=TrainingConfig.steps, help="of each run")
    parser.add_argument("--pictures", type=int, default=32, help="pictures for each score")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no run after that; call again"
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="train variants named like this"
    )
    parser.add_argument("--write", action="store_true", help="write docs/ablation.md and .png")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.monotonic()
    base = load_diffusion(DIFFUSION)
    kosmos, judge = load_kosmos(KOSMOS, torch.float32), load_judge()
    ablation = Ablation(base, options.steps, options.pictures)
    table: dict[str, list[Scores]] = {variant.name: [] for variant in VARIANTS}
    seeds = range(options.runs)
    for seed, variant in (*product(seeds, PRIORS), *product(seeds, OPTIONS)):
        scores = ablation.scores(variant, seed)
        asked = any(word in variant.name for word in options.only)
        if scores is None and asked and time.monotonic() - began < 60 * options.minutes:
            log.info("%s, seed %d: begins", variant.name, seed)
            scores = ablation.run(variant, seed, kosmos, judge)
            log.info("%s, seed %d: %s", variant.name, seed, scores)
        if scores is not None:
            table[variant.name].append(scores)
    rows = "\n".join([TABLE_HEAD, *(row(name, runs) for name, runs in table.items() if runs)])
    print(rows)
    if options.write:
        made = (
            f"`python -m dev score-ablation --runs {options.runs} --steps {options.steps} "
            f"--pictures {options.pictures} --write` measured this ({environment()})."
        )
        put_figures(PAGE, f"{rows}\n\n{made}")
        draw(ablation, 0).save(SHEET, optimize=True)
