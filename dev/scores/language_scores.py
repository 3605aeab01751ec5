"""Scores of captions in other languages, before and after fine-tuning on a language's captions."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...kosmos.fingerprint import fingerprint
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
from ...training.captions.caption_config import CaptionConfig
from ...training.captions.caption_dataset import Example, examples_fingerprint, write_examples
from ...training.captions.caption_results import load_result
from ...training.run.run_folder import find_or_create
from ...training.run.worker_process import Worker
from ..command_line import parse_arguments
from ..sandbox.caption_facts import read_facts
from ..sandbox.captioner_exercises import count_question, grounded_text
from ..sandbox.scene_pool import as_images, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .caption_scores import BATCHES, best_iou
from .score_table import Figure, figure, report

log = logging.getLogger(__name__)

TRAINING_SEED = 900_000_000
"""Seed of the first training scene; the captioner itself was not trained on it."""

FIRST_SEED = HELD_OUT + 70_000_000
TOLERANCE = 0.03
"""By how much the scores of English may decrease."""


def examples(language: str, count: int) -> list[Example]:
    """Return scenes with a caption and boxes in a language."""
    return [
        Example(s.pixels, parse(grounded_text(caption_in(language, s.scene, s.boxes))))
        for s in draw_samples(TRAINING_SEED, count, KOSMOS_PIXELS)
    ]


def fine_tune(base: Kosmos, language: str, count: int, folder: Path, **changes: Any) -> Kosmos:
    """Fine-tune `base` as FineTuneCaptions does; `changes` are fields of CaptionConfig."""
    dataset = examples(language, count)
    config = CaptionConfig(
        base=base.source,
        base_hash=fingerprint(base),
        language=language,
        prompt=localized_prompt(language, BRIEF, detailed=False),
        data=examples_fingerprint(dataset),
        device="cpu",
        **{"preview_every": 0, **changes},
    )
    run = find_or_create(
        folder,
        language,
        config,
        lambda draft: write_examples(draft.images, dataset),
        resume=False,
    )
    start = time.monotonic()
    with Worker(run) as worker:
        for event in worker.events():
            if event is not None and event.step % 50 == 0:
                log.info("%s: step %d, loss %s", language, event.step, event.loss)
    log.info("%s: %.0f seconds", language, time.monotonic() - start)
    return load_result(run, torch.float32)


class Exam:
    """Held-out scenes with their true kinds."""

    def __init__(self, count: int) -> None:
        self.samples = draw_samples(FIRST_SEED, count, KOSMOS_PIXELS)
        self.images = as_images(self.samples)
        self.kinds = [frozenset(t.individual.kind for t in s.scene.things) for s in self.samples]

    def captions(self, kosmos: Kosmos, language: str) -> list[GroundedText]:
        """Caption all scenes with the prompt of a language."""
        prompt = localized_prompt(language, BRIEF, detailed=False)
        return caption(kosmos, self.images, prompt, batching=BATCHES)

    def score(self, kosmos: Kosmos, language: str, when: str) -> Iterator[Figure]:
        """Score captions in a language: their kinds and boxes."""
        texts = self.captions(kosmos, language)
        kinds = [kinds_named(language, text.caption) for text in texts]
        right = (a == b for a, b in zip(kinds, self.kinds, strict=True))
        required = 0.85 if when == "after" else None
        yield figure(f"{language}, {when}: exactly the kinds there", right, required)
        ious = []
        for sample, text in zip(self.samples, texts, strict=True):
            for thing, box in zip(sample.scene.things, sample.boxes, strict=True):
                kind = thing.individual.kind
                phrases = [p for p in text.phrases if kind in kinds_named(language, p.text)]
                ious.append(best_iou(box, [b for phrase in phrases for b in phrase.boxes]))
        yield Figure(f"{language}, {when}: mean IoU of the boxes", sum(ious), len(ious))

    def score_english(
        self, kosmos: Kosmos, when: str, before: dict[str, Figure]
    ) -> Iterator[Figure]:
        """Score English captions and answers; `before` has the base model's scores, if known."""
        texts = self.captions(kosmos, ENGLISH)
        questions = ["how many are there?"]
        answers = ask(kosmos, self.images, questions, max_new_tokens=6, batching=BATCHES)
        results = {
            "exactly the kinds there": [
                read_facts(text.caption).kinds == kinds
                for text, kinds in zip(texts, self.kinds, strict=True)
            ],
            "how many there are": [
                text.strip() == count_question(sample)[1]
                for sample, (text,) in zip(self.samples, answers, strict=True)
            ],
        }
        for name, right in results.items():
            required = before[name].share - TOLERANCE if before else None
            yield figure(f"English, {when}: {name}", right, required)


def languages(kosmos: Kosmos, names: list[str], scenes: int, count: int) -> Iterator[Figure]:
    """Score each language before and after fine-tuning on it, and English each time."""
    exam = Exam(scenes)
    before: dict[str, Figure] = {}
    for score in exam.score_english(kosmos, "before", {}):
        before[score.name.split(": ")[1]] = score
        yield score
    for language in names:
        yield from exam.score(kosmos, language, "before")
        with tempfile.TemporaryDirectory() as folder:
            tuned = fine_tune(kosmos, language, count, Path(folder))
        yield from exam.score(tuned, language, "after")
        yield from exam.score_english(tuned, f"after {language}", before)


def main() -> None:
    """Print each figure as soon as it is measured."""
    options = parse_arguments(
        __doc__,
        languages={"nargs": "+", "choices": list(CODES), "default": list(CODES)},
        scenes=(200, "scenes to caption"),
        images=(256, "scenes to fine-tune on"),
        write=(False, "write the figures into the card"),
    )
    kosmos = load_kosmos(KOSMOS, torch.float32)
    figures = languages(kosmos, options.languages, options.scenes, options.images)
    card = "languages" if options.write else None
    report(figures, "python -m dev score-languages --write", card)
