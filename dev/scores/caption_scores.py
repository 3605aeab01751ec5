"""Scores of the captioner, and of the judge that scores the painter."""

from __future__ import annotations

from collections.abc import Iterator

from ...kosmos.generate.caption import BRIEF, caption
from ...kosmos.grounding import GroundedText
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.judge import Judge
from ...sandbox.world.scene import HELD_OUT, Box, Scene
from ...shared.batching import BatchOptions
from ...shared.images import to_batch
from ..sandbox.caption_facts import Facts, read
from ..sandbox.scene_pool import Sample, draw_sample
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .score_table import Figure, count_true


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two xyxy boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def true_facts(scene: Scene) -> Facts:
    """What a perfect caption of the scene says."""
    return Facts(tuple((t.one.kind, t.one.colour) for t in scene.things), scene.background)


def _best_overlaps(sample_: Sample, told: GroundedText) -> list[float]:
    """For each true thing, its overlap with the best box of a phrase that names its kind."""
    found = []
    for thing, true in zip(sample_.scene.things, sample_.boxes, strict=True):
        boxes = [b for p in told.phrases if thing.one.kind in read(p.text).kinds for b in p.boxes]
        found.append(max((overlap(true, box) for box in boxes), default=0.0))
    return found


def captions(kosmos: Kosmos, count: int) -> Iterator[Figure]:
    """Brief captions of ``count`` held-out scenes of one to three things."""
    samples = [draw_sample(HELD_OUT + k, KOSMOS_PIXELS) for k in range(count)]
    pictures = to_batch(s.pixels for s in samples)
    told = caption(kosmos, pictures, BRIEF, batching=BatchOptions(batch_size=50))
    facts = [read(text.caption) for text in told]
    truths = [true_facts(s.scene) for s in samples]
    pairs = list(zip(facts, truths, strict=True))
    right = count_true(f.kinds == t.kinds for f, t in pairs)
    yield Figure("captions: exactly the kinds that are there", right, count, 0.90)
    things = [(thing, f) for f, t in pairs for thing in t.things]
    right = count_true(thing in f.things for thing, f in things)
    yield Figure("captions: colours of the things", right, len(things), 0.85)
    right = count_true(f.background == t.background for f, t in pairs)
    yield Figure("captions: background", right, count, 0.95)
    overlaps = [v for s, text in zip(samples, told, strict=True) for v in _best_overlaps(s, text)]
    yield Figure("captions: mean IoU of the boxes", sum(overlaps), len(overlaps), 0.75)


def judged(judge: Judge, count: int) -> Iterator[Figure]:
    """The judge itself, on drawn scenes of one or two things."""
    samples = [draw_sample(HELD_OUT + 20_000_000 + k, 64, 1 + k % 2) for k in range(count)]
    pictures = to_batch(s.pixels for s in samples)
    pairs = list(zip(judge.look(pictures), (true_facts(s.scene) for s in samples), strict=True))
    right = count_true(frozenset(s.things) == t.kinds for s, t in pairs)
    yield Figure("the judge itself: kinds, on drawn scenes", right, count)
    right = count_true(s.background == t.background for s, t in pairs)
    yield Figure("the judge itself: background, on drawn scenes", right, count)
