"""Scores of the captioner's captions, and of the judge that scores generated images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...kosmos.generate.caption import BRIEF, caption
from ...kosmos.grounding import GroundedText
from ...kosmos.kosmos_model import Kosmos
from ...sandbox.judge import IMAGE_SIZE, Judge
from ...sandbox.world.scene import HELD_OUT, Box, Scene
from ...shared.batching import BatchOptions
from ..sandbox.caption_facts import Facts, read_facts
from ..sandbox.scene_pool import Sample, as_images, draw_sample, draw_samples
from ..sandbox.tokenizers import KOSMOS_PIXELS
from .score_table import Figure, figure

BATCHES = BatchOptions(batch_size=50)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two xyxy boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def best_iou(box: Box, candidates: Sequence[Box]) -> float:
    """The largest IoU with a box, 0 without candidates."""
    return max((iou(box, candidate) for candidate in candidates), default=0.0)


def true_facts(scene: Scene) -> Facts:
    """What a perfect caption of the scene says."""
    return Facts(
        tuple((t.individual.kind, t.individual.colour) for t in scene.things), scene.background
    )


def _best_ious(sample: Sample, text: GroundedText) -> list[float]:
    """For each thing, the largest IoU with a box of a phrase that names its kind."""
    ious = []
    for thing, box in zip(sample.scene.things, sample.boxes, strict=True):
        phrases = [p for p in text.phrases if thing.individual.kind in read_facts(p.text).kinds]
        ious.append(best_iou(box, [b for p in phrases for b in p.boxes]))
    return ious


def captions(kosmos: Kosmos, count: int) -> Iterator[Figure]:
    """Brief captions of `count` held-out scenes of one to three things."""
    samples = draw_samples(HELD_OUT, count, KOSMOS_PIXELS)
    texts = caption(kosmos, as_images(samples), BRIEF, batching=BATCHES)
    pairs = [
        (read_facts(text.caption), true_facts(sample.scene))
        for text, sample in zip(texts, samples, strict=True)
    ]
    yield figure(
        "captions: exactly the kinds that are there", (f.kinds == t.kinds for f, t in pairs), 0.90
    )
    colours = (thing in facts.things for facts, true in pairs for thing in true.things)
    yield figure("captions: colours of the things", colours, 0.85)
    backgrounds = (facts.background == true.background for facts, true in pairs)
    yield figure("captions: background", backgrounds, 0.95)
    ious = [v for s, text in zip(samples, texts, strict=True) for v in _best_ious(s, text)]
    yield Figure("captions: mean IoU of the boxes", sum(ious), len(ious), 0.75)


def judge_accuracy(judge: Judge, count: int) -> Iterator[Figure]:
    """The judge on drawn scenes of one or two things."""
    first = HELD_OUT + 20_000_000
    samples = [draw_sample(first + k, IMAGE_SIZE, 1 + k % 2) for k in range(count)]
    facts = [true_facts(sample.scene) for sample in samples]
    pairs = list(zip(judge.classify(as_images(samples)), facts, strict=True))
    kinds = (frozenset(p.things) == t.kinds for p, t in pairs)
    yield figure("the judge itself: kinds, on drawn scenes", kinds)
    backgrounds = (p.background == t.background for p, t in pairs)
    yield figure("the judge itself: background, on drawn scenes", backgrounds)
