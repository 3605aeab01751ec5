"""Scores of the captioner's answers, grounded phrases and descriptions of regions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from ...kosmos.generate.ask import ask
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.generate.ground import ground
from ...kosmos.generate.regions import describe_regions
from ...kosmos.grounding import Box
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.world.captions import noun_phrase
from ...sandbox.world.lexicon import COLOURS, KINDS
from ...sandbox.world.scene import HELD_OUT
from ...shared.batching import BatchOptions
from ..sandbox.caption_facts import read_facts
from ..sandbox.captioner_exercises import (
    Exercise,
    absent_phrase,
    colour_question,
    contents_question,
    count_question,
    has_one,
    presence_question,
    random_phrase,
    side_question,
)
from ..sandbox.scene_pool import Sample, as_images, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .caption_scores import best_iou
from .score_table import Figure, figure

COLOUR = "what colour it is"
SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
FIRST_SEED = HELD_OUT + 60_000_000
BATCHES = BatchOptions(batch_size=60)


def answers(kosmos: Kosmos, count: int) -> Iterator[Figure]:
    """Questions, regions and phrases on `count` held-out scenes of one to three things."""
    samples = draw_samples(FIRST_SEED, count, KOSMOS_PIXELS)
    images = as_images(samples)
    yield from _questions(kosmos, samples, images)
    yield from _regions(kosmos, samples, images)
    yield from _phrases(kosmos, samples, images)


def _questions(kosmos: Kosmos, samples: list[Sample], images: torch.Tensor) -> Iterator[Figure]:
    correct: dict[str, list[bool]] = {}
    for k, sample in enumerate(samples):
        questions = _question_set(sample, np.random.default_rng(k))
        texts = [question for _, (question, _) in questions]
        (row,) = ask(kosmos, images[k : k + 1], texts, max_new_tokens=40, batching=BATCHES)
        for (name, (_, expected)), text in zip(questions, row, strict=True):
            facts = read_facts(expected)
            equal = text.strip() == expected
            correct.setdefault(name, []).append(
                equal or (bool(facts.things) and read_facts(text) == facts)
            )
    for name, answers in correct.items():
        yield figure(f"questions: {name}", answers, 0.9 if name == COLOUR else None)


def _question_set(sample: Sample, rng: np.random.Generator) -> list[tuple[str, Exercise]]:
    """Names of figures, and questions with their correct answers."""
    things = sample.scene.things
    questions = [
        ("how many there are", count_question(sample)),
        ("what is in the picture", contents_question(sample)),
        ("is it there, yes", presence_question(sample, random_phrase(things[0], rng))),
        ("is it there, no", presence_question(sample, absent_phrase(sample, rng))),
    ]
    for thing in things:
        if has_one(sample, thing):
            questions.append((COLOUR, colour_question(thing)))
            if len(things) > 1:
                for side in SIDES:
                    questions.append(("what is beside it", side_question(sample, thing, side)))
    return questions


def _regions(kosmos: Kosmos, samples: list[Sample], images: torch.Tensor) -> Iterator[Figure]:
    boxes = [[Box(*box) for box in sample.boxes] for sample in samples]
    encoded = EncodedImages(kosmos, images)
    texts = describe_regions(kosmos, encoded, boxes, max_new_tokens=8, batching=BATCHES)
    kinds, both = [], []
    for sample, row in zip(samples, texts, strict=True):
        for thing, text in zip(sample.scene.things, row, strict=True):
            first = read_facts(text).things[:1]
            kinds.append(bool(first) and first[0][0] == thing.individual.kind)
            both.append(first == ((thing.individual.kind, thing.individual.colour),))
    yield figure("regions: the kind of the thing", kinds)
    yield figure("regions: its kind and colour", both)


def _phrases(kosmos: Kosmos, samples: list[Sample], images: torch.Tensor) -> Iterator[Figure]:
    for verify in (False, True):
        name = f"phrases, {'verified' if verify else 'not verified'}"
        ious, detected, rejected, recoloured = [], [], [], []
        for k, sample in enumerate(samples):
            kinds = {thing.individual.kind for thing in sample.scene.things}
            absent = next(kind for kind in KINDS[k % len(KINDS) :] + KINDS if kind not in kinds)
            kind = sample.scene.things[0].individual.kind
            colours = {
                t.individual.colour for t in sample.scene.things if t.individual.kind == kind
            }
            colour = next(c for c in COLOURS[k % len(COLOURS) :] + COLOURS if c not in colours)
            phrases = [noun_phrase(thing) for thing in sample.scene.things]
            phrases += [f"a {colour} {kind}", f"a {absent}"]
            (text,) = ground(kosmos, images[k : k + 1], phrases, verify=verify)
            for phrase, box in zip(text.phrases, sample.boxes, strict=False):
                ious.append(best_iou(box, phrase.boxes))
                detected.append(bool(phrase.boxes))
            recoloured.append(not text.phrases[-2].boxes)
            rejected.append(not text.phrases[-1].boxes)
        yield Figure(f"{name}: mean IoU", sum(ious), len(ious))
        yield figure(f"{name}: found when present", detected)
        yield figure(f"{name}: rejected when absent", rejected, 0.9)
        yield figure(f"{name}: rejected for its colour", recoloured)
