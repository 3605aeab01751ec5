"""English captions of scenes, with boxes for their phrases."""

from __future__ import annotations

import numpy as np

from .lexicon import BACKGROUNDS
from .scene import Box, Scene, Thing

Phrase = tuple[str, list[Box]]
Part = str | Phrase
"""Plain text, or a phrase with its boxes."""

NUMBERS = {2: "two", 3: "three"}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(thing: Thing, *, colour: bool = True, pattern: bool = True, count: int = 1) -> str:
    """`a red spotted dog`, or `two red spotted dogs` (fish stay fish)."""
    individual = thing.individual
    words = [individual.colour] if colour else []
    if pattern and individual.pattern != "plain":
        words.append(individual.pattern)
    kind = individual.kind
    plural = kind if count == 1 or kind == "fish" else kind + "s"
    words.append(plural)
    return " ".join([NUMBERS[count] if count > 1 else _article(words[0]), *words])


def _groups(scene: Scene, boxes: list[Box]) -> list[tuple[Thing, list[Box]]]:
    """Things from left to right; things with equal phrases are grouped."""
    groups: dict[tuple[str, str, str], tuple[Thing, list[Box]]] = {}
    for thing, box in sorted(zip(scene.things, boxes, strict=True), key=lambda pair: pair[1][0]):
        individual = thing.individual
        key = (individual.kind, individual.colour, individual.pattern)
        groups.setdefault(key, (thing, []))[1].append(box)
    return list(groups.values())


def brief(scene: Scene, boxes: list[Box], *, pattern: bool = True) -> list[Part]:
    """`a red dog and two blue cats in the meadow.`"""
    parts: list[Part] = []
    groups = _groups(scene, boxes)
    for k, (thing, places) in enumerate(groups):
        if k:
            parts.append(" and" if k == len(groups) - 1 else ",")
        phrase = noun_phrase(thing, count=len(places), pattern=pattern)
        parts.append((phrase, places))
    return [*parts, f" {BACKGROUNDS[scene.background]}."]


def detailed(scene: Scene, boxes: list[Box]) -> list[Part]:
    """A sentence for each thing, with its position and size, and one for the background."""
    parts: list[Part] = []
    for k, (thing, places) in enumerate(_groups(scene, boxes)):
        x0, y0, x1, y1 = places[0]
        centre = (x0 + x1) / 2
        side = (
            "on the left" if centre < 0.4 else "on the right" if centre > 0.6 else "in the middle"
        )
        size = "large" if (x1 - x0) * (y1 - y0) > 0.25 else "small"
        verb = "are" if len(places) > 1 else "is"
        parts.append(f" {'There' if k == 0 else 'Then there'} {verb}")
        parts.append((noun_phrase(thing, count=len(places)), places))
        parts.append(f", {size}," if len(places) == 1 else ",")
        parts.append(f" {side}.")
    return [*parts, f" All of it is {BACKGROUNDS[scene.background]}."]


def plain_text(parts: list[Part]) -> str:
    """The caption without boxes."""
    return "".join(p if isinstance(p, str) else f" {p[0]}" for p in parts).strip()


def prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A prompt for a scene: often with fewer details than the image shows."""
    groups = _groups(scene, [(thing.x, 0.0, thing.x, 0.0) for thing in scene.things])
    colour = rng.uniform() > 0.25
    pattern = rng.uniform() > 0.5
    phrases = [
        noun_phrase(thing, count=len(places), colour=colour, pattern=pattern)
        for thing, places in groups
    ]
    text = " and ".join(phrases)
    return text if rng.uniform() < 0.1 else f"{text} {BACKGROUNDS[scene.background]}"
