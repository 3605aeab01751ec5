"""Scores of captions in other languages, before and after fine-tuning on a language's captions."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...kosmos.generate.ask import ask
from ...kosmos.generate.caption import BRIEF, caption
from ...kosmos.generate.language import ENGLISH, localized_prompt
from ...kosmos.grounding import GroundedText, parse
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...sandbox import KOSMOS
from ...sandbox.world.foreign import CODES, kinds_named
from ...sandbox.world.foreign import caption as caption_in
from ...sandbox.world.scene import HELD_OUT
from ...shared.batching import BatchOptions
from ...shared.images import to_batch
from ...training.captions.caption_config import CaptionConfig
from ...training.captions.caption_dataset import Example, examples_fingerprint, write_examples
from ...training.captions.caption_results import kosmos_fingerprint, load_result
from ...training.run.run_folder import find_or_create
from ...training.run.worker_process import Worker
from ..sandbox.caption_facts import read
from ..sandbox.captioner_exercises import grounded_text
from ..sandbox.scene_pool import draw_sample
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .caption_scores import overlap
from .score_table import Figure, count_true, report

log = logging.getLogger(__name__)

TAUGHT = 900_000_000
"""Seed of the first scene that a language is learned on; the captioner itself never saw it."""

FIRST = HELD_OUT + 70_000_000
FAST = BatchOptions(batch_size=50)
FORGIVEN = 0.03
"""What English may lose."""


def examples(language: str, count: int) -> list[Example]:
    """Return scenes with a caption and boxes in a language."""
    samples = [draw_sample(TAUGHT + k, KOSMOS_PIXELS) for k in range(count)]
    return [
        Example(s.pixels, parse(grounded_text(caption_in(language, s.scene, s.boxes))))
        for s in samples
    ]


def teach(base: Kosmos, language: str, pictures: int, folder: Path, **changes: Any) -> Kosmos:
    """Fine-tune ``base`` as FineTuneCaptions does; ``changes`` are not the trainer's defaults."""
    told = examples(language, pictures)
    config = CaptionConfig(
        base=base.source,
        base_hash=kosmos_fingerprint(base),
        language=language,
        prompt=localized_prompt(language, BRIEF, detailed=False),
        data=examples_fingerprint(told),
        device="cpu",
        **{"preview_every": 0, **changes},
    )
    run = find_or_create(
        folder, language, config, lambda draft: write_examples(draft.images, told), resume=False
    )
    began = time.monotonic()
    with Worker(run) as worker:
        for event in worker.events():
            if event is not None and event.step % 50 == 0:
                log.info("%s: step %d, loss %s", language, event.step, event.loss)
    log.info("%s: %.0f seconds", language, time.monotonic() - began)
    return load_result(run, torch.float32)


class Exam:
    """Held-out scenes, and what is right to say of them."""

    def __init__(self, count: int) -> None:
        self.samples = [draw_sample(FIRST + k, KOSMOS_PIXELS) for k in range(count)]
        self.pictures = to_batch(s.pixels for s in self.samples)
        self.kinds = [frozenset(t.one.kind for t in s.scene.things) for s in self.samples]

    def told(self, kosmos: Kosmos, language: str) -> list[GroundedText]:
        """Return the captions of a model that is asked for a language."""
        prompt = localized_prompt(language, BRIEF, detailed=False)
        return caption(kosmos, self.pictures, prompt, batching=FAST)

    def foreign(self, kosmos: Kosmos, language: str, when: str) -> Iterator[Figure]:
        """Score captions in a language: the kinds they name, and where they see them."""
        told = self.told(kosmos, language)
        named = [kinds_named(language, text.caption) for text in told]
        right = count_true(a == b for a, b in zip(named, self.kinds, strict=True))
        asked = 0.85 if when == "after" else None
        yield Figure(f"{language}, {when}: exactly the kinds there", right, len(told), asked)
        overlaps = [
            max(
                (
                    overlap(true, box)
                    for phrase in text.phrases
                    if thing.one.kind in kinds_named(language, phrase.text)
                    for box in phrase.boxes
                ),
                default=0.0,
            )
            for sample, text in zip(self.samples, told, strict=True)
            for thing, true in zip(sample.scene.things, sample.boxes, strict=True)
        ]
        yield Figure(f"{language}, {when}: mean IoU of the boxes", sum(overlaps), len(overlaps))

    def english(self, kosmos: Kosmos, which: str, before: dict[str, Figure]) -> Iterator[Figure]:
        """Score English captions and answers; ``before`` is how the base model did, if known."""
        told = self.told(kosmos, ENGLISH)
        right = count_true(
            read(t.caption).kinds == kinds for t, kinds in zip(told, self.kinds, strict=True)
        )
        answers = ask(
            kosmos, self.pictures, ["how many are there?"], max_new_tokens=6, batching=FAST
        )
        numbers = ("one", "two", "three")
        counted = count_true(
            text.strip(".") == numbers[len(sample.boxes) - 1]
            for sample, (text,) in zip(self.samples, answers, strict=True)
        )
        for what, good in (("exactly the kinds there", right), ("how many there are", counted)):
            asked = before[what].share - FORGIVEN if before else None
            yield Figure(f"English, {which}: {what}", good, len(told), asked)


def languages(kosmos: Kosmos, names: list[str], scenes: int, pictures: int) -> Iterator[Figure]:
    """Ask for each language, teach it, and ask again; and ask for English before and after."""
    exam = Exam(scenes)
    before: dict[str, Figure] = {}
    for figure in exam.english(kosmos, "before", {}):
        before[figure.name.split(": ")[1]] = figure
        yield figure
    for language in names:
        yield from exam.foreign(kosmos, language, "before")
        with tempfile.TemporaryDirectory() as folder:
            taught = teach(kosmos, language, pictures, Path(folder))
        yield from exam.foreign(taught, language, "after")
        yield from exam.english(taught, f"after {language}", before)


def main() -> None:
    """Read the command line, measure, and print each figure as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--languages", nargs="+", choices=list(CODES), default=list(CODES))
    parser.add_argument("--scenes", type=int, default=200, help="scenes to describe")
    parser.add_argument("--pictures", type=int, default=256, help="scenes to learn from")
    parser.add_argument("--write", action="store_true", help="write the figures into the card")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    kosmos = load_kosmos(KOSMOS, torch.float32)
    figures = languages(kosmos, options.languages, options.scenes, options.pictures)
    card = "languages" if options.write else None
    report(figures, "python -m dev score-languages --write", card)
