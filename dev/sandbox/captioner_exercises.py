"""What the captioner practises: captions, questions, pointing and naming, as Kosmos-2 writes them.

Each exercise is a prompt and the answer that a perfect model would write. The prompts are those of
the Kosmos-2 model card (Peng et al. 2023, section 2): a caption follows "An image of", a phrase is
grounded by the box after it, and a region is named by the words after its box.
"""

from __future__ import annotations

import numpy as np

from ...sandbox.world.captions import Part, brief, detailed, noun_phrase
from ...sandbox.world.scene import Box, Thing
from .scene_pool import Sample

BINS = 32
Exercise = tuple[str, str]
"""Prompt and answer."""


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


def short_exercise(sample: Sample, rng: np.random.Generator) -> Exercise:
    """Ground a phrase, name a region, or answer a question about a thing that is there."""
    kind = rng.choice(("ground", "region", "question"), p=(0.45, 0.25, 0.3))
    k = int(rng.integers(len(sample.boxes)))
    thing, box = sample.scene.things[k], sample.boxes[k]
    if kind == "region":
        prompt = f"<grounding><phrase> It</phrase>{object_text([box])} is"
        return prompt, f" {noun_phrase(thing)}."
    if kind == "ground":
        colour, pattern = rng.uniform(size=2) < 0.6
        phrase = noun_phrase(thing, colour=bool(colour), pattern=bool(pattern))
        return f"<grounding><phrase> {phrase}</phrase>", object_text(_alike(sample, phrase, thing))
    asked, answer = _question(sample, thing, rng)
    return f"<grounding>Question: {asked} Answer:", f" {answer}"


def _alike(sample: Sample, phrase: str, thing: Thing) -> list[Box]:
    """The boxes of everything that the phrase describes, from left to right."""
    words = phrase.split()[1:]

    def fits(other: Thing) -> bool:
        one = other.one
        return one.kind == thing.one.kind and all(
            w in (one.kind, one.colour, one.pattern) for w in words
        )

    things = zip(sample.scene.things, sample.boxes, strict=True)
    return sorted((box for other, box in things if fits(other)), key=lambda box: box[0])


def _question(sample: Sample, thing: Thing, rng: np.random.Generator) -> Exercise:
    kinds = [t.one.kind for t in sample.scene.things]
    if kinds.count(thing.one.kind) == 1 and rng.uniform() < 0.5:
        return f"what colour is the {thing.one.kind}?", f"{thing.one.colour}."
    return "how many are there?", f"{('one', 'two', 'three')[len(kinds) - 1]}."
