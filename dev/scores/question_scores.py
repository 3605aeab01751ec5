"""Scores of what the captioner answers: questions, phrases to find, regions to name."""

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
from ...shared.images import to_batch
from ..sandbox.caption_facts import read
from ..sandbox.scene_pool import Sample, draw_sample
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .caption_scores import overlap
from .score_table import Figure, count_true

FIRST = HELD_OUT + 60_000_000
FAST = BatchOptions(batch_size=60)


def answers(kosmos: Kosmos, count: int) -> Iterator[Figure]:
    """Ask, point and name on ``count`` held-out scenes of one to three things."""
    samples = [draw_sample(FIRST + k, KOSMOS_PIXELS) for k in range(count)]
    pictures = to_batch(s.pixels for s in samples)
    yield from _questions(kosmos, samples, pictures)
    yield from _regions(kosmos, samples, pictures)
    yield from _phrases(kosmos, samples, pictures)


def _questions(kosmos: Kosmos, samples: list[Sample], pictures: torch.Tensor) -> Iterator[Figure]:
    asked = ["how many are there?", *(f"what colour is the {kind}?" for kind in KINDS)]
    told = ask(kosmos, pictures, asked, max_new_tokens=6, batching=FAST)
    pairs = list(zip(samples, told, strict=True))
    numbers = ("one", "two", "three")
    right = count_true(t[0].strip(".") == numbers[len(s.boxes) - 1] for s, t in pairs)
    yield Figure("questions: how many there are", right, len(samples))
    colours = []
    for sample, texts in pairs:
        kinds = [thing.one.kind for thing in sample.scene.things]
        for thing in sample.scene.things:
            if kinds.count(thing.one.kind) == 1:
                answer = texts[1 + KINDS.index(thing.one.kind)]
                colours.append(answer.strip(".") == thing.one.colour)
    yield Figure("questions: what colour it is", count_true(colours), len(colours))


def _regions(kosmos: Kosmos, samples: list[Sample], pictures: torch.Tensor) -> Iterator[Figure]:
    boxes = [[Box(*box) for box in sample.boxes] for sample in samples]
    told = describe_regions(
        kosmos, EncodedImages(kosmos, pictures), boxes, max_new_tokens=8, batching=FAST
    )
    pairs = [
        (thing.one, read(text).things)
        for sample, texts in zip(samples, told, strict=True)
        for thing, text in zip(sample.scene.things, texts, strict=True)
    ]
    right = count_true(bool(seen) and seen[0][0] == one.kind for one, seen in pairs)
    yield Figure("regions: the kind of the thing", right, len(pairs))
    right = count_true(bool(seen) and seen[0] == (one.kind, one.colour) for one, seen in pairs)
    yield Figure("regions: its kind and colour", right, len(pairs))


def _phrases(kosmos: Kosmos, samples: list[Sample], pictures: torch.Tensor) -> Iterator[Figure]:
    for verify in (False, True):
        how = "verified" if verify else "believed"
        overlaps, found, absent = [], [], []
        for k, sample in enumerate(samples):
            kinds = {thing.one.kind for thing in sample.scene.things}
            missing = next(kind for kind in KINDS[k % len(KINDS) :] + KINDS if kind not in kinds)
            wanted = [noun_phrase(thing) for thing in sample.scene.things]
            picture = pictures[k : k + 1]
            (seen,) = ground(kosmos, picture, [*wanted, f"a {missing}"], verify=verify)
            for phrase, true in zip(seen.phrases, sample.boxes, strict=False):
                overlaps.append(max((overlap(true, box) for box in phrase.boxes), default=0.0))
                found.append(bool(phrase.boxes))
            absent.append(not seen.phrases[-1].boxes)
        yield Figure(f"phrases, {how}: mean IoU", sum(overlaps), len(overlaps))
        yield Figure(f"phrases, {how}: found when there", count_true(found), len(found))
        yield Figure(f"phrases, {how}: refused when not there", count_true(absent), len(absent))
