"""What the captioner practises: captions, questions, pointing and naming, as Kosmos-2 writes them.

Each exercise is a prompt and the answer that a perfect model would write. The prompts are those of
the Kosmos-2 model card (Peng et al. 2023, section 2): a caption follows "An image of", a phrase is
grounded by the box after it, and a region is named by the words after its box. Unlike the published
model this one also practises phrases that fit nothing in the image: no box follows them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from ...sandbox.world.captions import Part, brief, detailed, noun_phrase, plain_text
from ...sandbox.world.individual import draw_individual
from ...sandbox.world.scene import Box, Thing
from .scene_pool import Sample

BINS = 32
Exercise = tuple[str, str]
"""Prompt and answer; of a question, the question alone and its answer."""
ABSENT = 0.4
"""Share of the phrases to ground that fit nothing in the image."""


def _location(x: float, y: float) -> str:
    column, row = (min(int(v * BINS), BINS - 1) for v in (x, y))
    return f"<patch_index_{row * BINS + column:04d}>"


def box_text(box: Box) -> str:
    """Two location tokens: the bins of the upper left and of the lower right corner."""
    x0, y0, x1, y1 = box
    edge = 1e-6
    return _location(x0, y0) + _location(x1 - edge, y1 - edge)


def object_text(boxes: list[Box]) -> str:
    """The boxes of one phrase."""
    return f"<object>{'</delimiter_of_multi_objects/>'.join(map(box_text, boxes))}</object>"


def grounded_text(parts: list[Part]) -> str:
    """A caption as Kosmos-2 writes it: phrases in tags, each followed by its boxes."""
    return "".join(
        p if isinstance(p, str) else f"<phrase> {p[0]}</phrase>{object_text(p[1])}" for p in parts
    )


def brief_caption(sample: Sample, rng: np.random.Generator) -> Exercise:
    """The scene in a sentence."""
    return "<grounding>An image of", grounded_text(brief(sample.scene, sample.boxes))


def detailed_caption(sample: Sample, rng: np.random.Generator) -> Exercise:
    """The scene in one sentence for each thing."""
    text = grounded_text(detailed(sample.scene, sample.boxes))
    return "<grounding>Describe this image in detail:", text


def contents_exercise(sample: Sample, rng: np.random.Generator) -> Exercise:
    """All things and the background, asked for by a question."""
    return _asked(*contents_question(sample))


def short_exercise(sample: Sample, rng: np.random.Generator) -> Exercise:
    """Ground a phrase, which may be absent, name a region, or answer a question."""
    kind = rng.choice(("ground", "region", "question"), p=(0.4, 0.1, 0.5))
    k = int(rng.integers(len(sample.boxes)))
    thing, box = sample.scene.things[k], sample.boxes[k]
    if kind == "region":
        prompt = f"<grounding><phrase> It</phrase>{object_text([box])} is"
        return prompt, f" {noun_phrase(thing)}."
    if kind == "ground":
        absent = rng.uniform() < ABSENT
        phrase = absent_phrase(sample, rng) if absent else random_phrase(thing, rng)
        boxes = matching_boxes(sample, phrase)
        return f"<grounding><phrase> {phrase}</phrase>", object_text(boxes) if boxes else ""
    return _asked(*_question(sample, thing, rng))


def _asked(question: str, answer: str) -> Exercise:
    return f"<grounding>Question: {question} Answer:", f" {answer}"


def random_phrase(thing: Thing, rng: np.random.Generator) -> str:
    """A phrase for the thing, often without its colour or pattern."""
    colour, pattern = rng.uniform(size=2) < 0.6
    return noun_phrase(thing, colour=bool(colour), pattern=bool(pattern))


def absent_phrase(sample: Sample, rng: np.random.Generator) -> str:
    """A phrase that fits nothing in the scene: half of the time only by the colour."""
    while True:
        thing = sample.scene.things[int(rng.integers(len(sample.boxes)))]
        other = draw_individual(rng)
        if rng.uniform() < 0.5:
            other = replace(thing.individual, colour=other.colour)
            phrase = noun_phrase(replace(thing, individual=other), pattern=False)
        else:
            phrase = random_phrase(replace(thing, individual=other), rng)
        if not matching_boxes(sample, phrase):
            return phrase


def matching_boxes(sample: Sample, phrase: str) -> list[Box]:
    """The boxes of everything that a phrase in the singular describes, from left to right."""
    words = phrase.split()[1:]
    boxes = [
        box
        for thing, box in zip(sample.scene.things, sample.boxes, strict=True)
        if all(
            word in (thing.individual.kind, thing.individual.colour, thing.individual.pattern)
            for word in words
        )
    ]
    return sorted(boxes, key=lambda box: box[0])


def has_one(sample: Sample, thing: Thing) -> bool:
    """Whether the thing is the only one of its kind, so that a question can name it by its kind."""
    return [each.individual.kind for each in sample.scene.things].count(thing.individual.kind) == 1


def colour_question(thing: Thing) -> Exercise:
    """The colour of the only thing of its kind."""
    return f"what colour is the {thing.individual.kind}?", f"{thing.individual.colour}."


def count_question(sample: Sample) -> Exercise:
    """The number of things."""
    return "how many are there?", f"{('one', 'two', 'three')[len(sample.boxes) - 1]}."


def contents_question(sample: Sample) -> Exercise:
    """All things and the background."""
    return "what is in the picture?", plain_text(brief(sample.scene, sample.boxes))


def presence_question(sample: Sample, phrase: str) -> Exercise:
    """Whether something fits the phrase."""
    return f"is there {phrase}?", "yes." if matching_boxes(sample, phrase) else "no."


def side_question(sample: Sample, thing: Thing, side: Literal["left", "right"]) -> Exercise:
    """What is left or right of the only thing of its kind, by the boxes' centres."""

    def centre(box: Box) -> float:
        return box[0] + box[2]

    here = centre(sample.boxes[sample.scene.things.index(thing)])
    beside = [
        (other, box)
        for other, box in zip(sample.scene.things, sample.boxes, strict=True)
        if (centre(box) < here if side == "left" else centre(box) > here)
    ]
    question = f"what is {side} of the {thing.individual.kind}?"
    if not beside:
        return question, "nothing."
    scene = replace(sample.scene, things=tuple(other for other, _ in beside))
    parts = brief(scene, [box for _, box in beside])[:-1]  # without the background
    return question, f"{plain_text(parts)}."


def _question(sample: Sample, thing: Thing, rng: np.random.Generator) -> Exercise:
    kind = rng.choice(("colour", "side", "presence", "count"), p=(0.4, 0.25, 0.3, 0.05))
    if kind == "colour" and has_one(sample, thing):
        return colour_question(thing)
    if kind == "side" and has_one(sample, thing):
        return side_question(sample, thing, "left" if rng.uniform() < 0.5 else "right")
    if kind == "count":
        return count_question(sample)
    absent = rng.uniform() < 0.5
    phrase = absent_phrase(sample, rng) if absent else random_phrase(thing, rng)
    return presence_question(sample, phrase)
