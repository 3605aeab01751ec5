"""Captions of the world in other languages, with the phrases that carry boxes.

Each thing has a phrase of its own, so no plurals are needed. Words are those of the lexicon; what
grammar adds is written with letters that the sandbox's tokenizer has.
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
"""Article, ending of an adjective behind it, and the nouns of each gender."""

_UNBENT = ("orange", "lila", "rosa")
_SPANISH_FEMININE = "house flower star cup"


def caption(language: str, scene: Scene, boxes: list[Box]) -> list[Part]:
    """Say what stands where, from left to right: ``eine rote Katze und ein Hund im Schnee.``

    ``language`` is one of CODES.
    """
    words = TRANSLATIONS[CODES[language]]
    things = sorted(zip(scene.things, boxes, strict=True), key=lambda pair: pair[1][0])
    phrases: list[Part] = [(_SAY[language](words, thing.one), [box]) for thing, box in things]
    background = words[scene.background]
    if language == "Japanese":
        return [f" {background}", *_joined(phrases, ",", ","), "."]
    return [
        *_joined(phrases, ",", {"German": " und", "Spanish": " y"}[language]),
        f" {background}.",
    ]


def kinds_named(language: str, text: str) -> frozenset[str]:
    """Return the kinds that a text names, by their English names."""
    words = TRANSLATIONS[CODES[language]]
    parted = "" if language == "Japanese" else r"\b"
    return frozenset(kind for kind in KINDS if re.search(f"{parted}{words[kind]}{parted}", text))


def _joined(phrases: list[Part], between: str, last: str) -> list[Part]:
    parts = phrases[:1]
    for k, phrase in enumerate(phrases[1:], start=2):
        parts += [last if k == len(phrases) else between, phrase]
    return parts


def _german(words: dict[str, str], one: Individual) -> str:
    article, ending, _ = next(row for row in _GERMAN.values() if one.kind in row[2].split())
    said = [words[word] for word in _looks(one)]
    bent = [word if word in _UNBENT else word + ending for word in said]
    return " ".join([article, *bent, words[one.kind]])


def _spanish(words: dict[str, str], one: Individual) -> str:
    feminine = one.kind in _SPANISH_FEMININE.split()
    said = [words[word] for word in _looks(one)]
    if feminine:
        said = [word[:-1] + "a" if word.endswith("o") else word for word in said]
    return " ".join(["una" if feminine else "un", words[one.kind], *said])


def _japanese(words: dict[str, str], one: Individual) -> str:
    return "".join(words[word] for word in (*_looks(one), one.kind))


def _looks(one: Individual) -> list[str]:
    return [one.colour] if one.pattern == "plain" else [one.colour, one.pattern]


_SAY: dict[str, Callable[[dict[str, str], Individual], str]] = {
    "German": _german,
    "Spanish": _spanish,
    "Japanese": _japanese,
}
