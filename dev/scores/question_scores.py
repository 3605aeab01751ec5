"""Scores of the captioner's answers, grounded phrases and descriptions of regions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...kosmos.generate.ask import ask
from ...kosmos.generate.encoded_images import EncodedImages
from ...kosmos.generate.ground import ground
from ...kosmos.generate.regions import describe_regions
from ...kosmos.grounding import Box
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.world.captions import noun_phrase
from ...sandbox.world.lexicon import KINDS
from ...sandbox.world.scene import HELD_OUT
from ...shared.batching import BatchOptions
from ..sandbox.caption_facts import read_facts
from ..sandbox.scene_pool import Sample, as_images, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .caption_scores import NUMBERS, best_iou
from .score_table import Figure, figure

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
    questions = ["how many are there?", *(f"what colour is the {kind}?" for kind in KINDS)]
    texts = ask(kosmos, images, questions, max_new_tokens=6, batching=BATCHES)
    counts, colours = [], []
    for sample, row in zip(samples, texts, strict=True):
        counts.append(row[0].strip(".") == NUMBERS[len(sample.boxes) - 1])
        kinds = [thing.one.kind for thing in sample.scene.things]
        for thing in sample.scene.things:
            if kinds.count(thing.one.kind) == 1:
                answer = row[1 + KINDS.index(thing.one.kind)]
                colours.append(answer.strip(".") == thing.one.colour)
    yield figure("questions: how many there are", counts)
    yield figure("questions: what colour it is", colours)


def _regions(kosmos: Kosmos, samples: list[Sample], images: torch.Tensor) -> Iterator[Figure]:
    boxes = [[Box(*box) for box in sample.boxes] for sample in samples]
    encoded = EncodedImages(kosmos, images)
    texts = describe_regions(kosmos, encoded, boxes, max_new_tokens=8, batching=BATCHES)
    kinds, both = [], []
    for sample, row in zip(samples, texts, strict=True):
        for thing, text in zip(sample.scene.things, row, strict=True):
            first = read_facts(text).things[:1]
            kinds.append(bool(first) and first[0][0] == thing.one.kind)
            both.append(first == ((thing.one.kind, thing.one.colour),))
    yield figure("regions: the kind of the thing", kinds)
    yield figure("regions: its kind and colour", both)


def _phrases(kosmos: Kosmos, samples: list[Sample], images: torch.Tensor) -> Iterator[Figure]:
    for verify in (False, True):
        name = f"phrases, {'verified' if verify else 'not verified'}"
        ious, detected, rejected = [], [], []
        for k, sample in enumerate(samples):
            kinds = {thing.one.kind for thing in sample.scene.things}
            absent = next(kind for kind in KINDS[k % len(KINDS) :] + KINDS if kind not in kinds)
            phrases = [noun_phrase(thing) for thing in sample.scene.things]
            (text,) = ground(kosmos, images[k : k + 1], [*phrases, f"a {absent}"], verify=verify)
            for phrase, box in zip(text.phrases, sample.boxes, strict=False):
                ious.append(best_iou(box, phrase.boxes))
                detected.append(bool(phrase.boxes))
            rejected.append(not text.phrases[-1].boxes)
        yield Figure(f"{name}: mean IoU", sum(ious), len(ious))
        yield figure(f"{name}: found when present", detected)
        yield figure(f"{name}: rejected when absent", rejected)
