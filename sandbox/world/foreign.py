"""Captions of scenes in other languages, with boxes for their phrases.

Each thing has a phrase of its own, so no plurals are needed. Articles and endings only use letters
of the sandbox's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .captions import Part
from .individual import Individual
from .lexicon import KINDS, TRANSLATIONS
from .scene import Box, Scene

CODES = {"German": "de", "Spanish": "es", "Japanese": "ja"}
"""The lexicon's languages by the names that the nodes have for them."""

_GERMAN = {
    "m": ("ein", "er", "dog bird fish tree star"),
    "f": ("eine", "e", "cat rocket flower cup"),
    "n": ("ein", "es", "house car boat"),
}
"""Article, ending of adjectives after it, and the nouns of each gender."""

_UNINFLECTED = ("orange", "lila", "rosa")
_SPANISH_FEMININE = "house flower star cup"


def caption(language: str, scene: Scene, boxes: list[Box]) -> list[Part]:
    """Caption the things from left to right and the background; `language` is one of CODES.

    For example `eine rote Katze und ein Hund im Schnee.`
    """
    words = TRANSLATIONS[CODES[language]]
    things = sorted(zip(scene.things, boxes, strict=True), key=lambda pair: pair[1][0])
    phrases: list[Part] = [
        (_PHRASE_FUNCTIONS[language](words, thing.individual), [box]) for thing, box in things
    ]
    background = words[scene.background]
    if language == "Japanese":
        return [f" {background}", *_join(phrases, ",", ","), "."]
    return [
        *_join(phrases, ",", {"German": " und", "Spanish": " y"}[language]),
        f" {background}.",
    ]


def kinds_named(language: str, text: str) -> frozenset[str]:
    """Return the kinds that a text names, by their English names."""
    words = TRANSLATIONS[CODES[language]]
    boundary = "" if language == "Japanese" else r"\b"
    return frozenset(
        kind for kind in KINDS if re.search(f"{boundary}{words[kind]}{boundary}", text)
    )


def _join(phrases: list[Part], between: str, last: str) -> list[Part]:
    parts = phrases[:1]
    for k, phrase in enumerate(phrases[1:], start=2):
        parts += [last if k == len(phrases) else between, phrase]
    return parts


def _german(words: dict[str, str], individual: Individual) -> str:
    article, ending, _ = next(row for row in _GERMAN.values() if individual.kind in row[2].split())
    adjectives = [words[word] for word in _adjectives(individual)]
    inflected = [word if word in _UNINFLECTED else word + ending for word in adjectives]
    return " ".join([article, *inflected, words[individual.kind]])


def _spanish(words: dict[str, str], individual: Individual) -> str:
    feminine = individual.kind in _SPANISH_FEMININE.split()
    adjectives = [words[word] for word in _adjectives(individual)]
    if feminine:
        adjectives = [word[:-1] + "a" if word.endswith("o") else word for word in adjectives]
    return " ".join(["una" if feminine else "un", words[individual.kind], *adjectives])


def _japanese(words: dict[str, str], individual: Individual) -> str:
    return "".join(words[word] for word in (*_adjectives(individual), individual.kind))


def _adjectives(individual: Individual) -> list[str]:
    pattern = [] if individual.pattern == "plain" else [individual.pattern]
    return [individual.colour, *pattern]


_PHRASE_FUNCTIONS: dict[str, Callable[[dict[str, str], Individual], str]] = {
    "German": _german,
    "Spanish": _spanish,
    "Japanese": _japanese,
}
