"""The syntax of prompts in ComfyUI: `(words:1.3)`, `\\(`, `embedding:name`.

Square brackets and BREAK have no meaning in ComfyUI; they are words as any others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from ...shared.errors import UserError

COMFYUI, PLAIN = "comfyui", "plain"
SYNTAXES = (COMFYUI, PLAIN)
"""How prompts are read; in "plain" every character is text."""

PARENTHESES_WEIGHT = 1.1
"""The weight of `(words)` without a number, relative to the text around it."""

EMBEDDING = "embedding:"
_ESCAPED = {r"\)": "\0\1", r"\(": "\0\2"}


class WeightedText(NamedTuple):
    """A part of a prompt and the weight of its tokens; 1 is the usual one."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[WeightedText]:
    """Return a prompt in parts with their weights, without the parentheses that give them.

    `(a dog:1.3)` has the weight 1.3, `(a dog)` 1.1 times that of the text around it; escaped and
    unbalanced parentheses are text. Raises UserError when they are nested too deeply.
    """
    for escape, placeholder in _ESCAPED.items():
        prompt = prompt.replace(escape, placeholder)
    try:
        parts = list(_weighted_parts(prompt, 1.0))
    except RecursionError as error:
        raise UserError(
            "The prompt has hundreds of parentheses inside each other: remove some, or set "
            "prompt_syntax to plain."
        ) from error
    return [WeightedText(_unescape(text), weight) for text, weight in parts]


def _unescape(text: str) -> str:
    for escape, placeholder in _ESCAPED.items():
        text = text.replace(placeholder, escape[1])
    return text


def _weighted_parts(text: str, weight: float) -> Iterator[tuple[str, float]]:
    for group in _outermost_groups(text):
        if len(group) < 2 or (group[0], group[-1]) != ("(", ")"):
            yield group, weight
            continue
        inner, colon, number = group[1:-1].rpartition(":")
        value = _number(number) if inner and colon else None
        if value is None:
            yield from _weighted_parts(group[1:-1], weight * PARENTHESES_WEIGHT)
        else:
            yield from _weighted_parts(inner, value)


def _number(text: str) -> float | None:
    """Return a finite number, or None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _outermost_groups(text: str) -> Iterator[str]:
    """Yield the parts of a text that are in parentheses, with these, and those between them."""
    start = depth = 0
    for index, character in enumerate(text):
        if character == "(":
            if depth == 0 and index > start:
                yield text[start:index]
                start = index
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield text[start : index + 1]
                start = index + 1
    if start < len(text):
        yield text[start:]


def split_embeddings(text: str) -> list[str]:
    """Split a text before each `embedding:` that begins it or follows a blank."""
    return [part for part in re.split(rf"(?<=\s)(?={EMBEDDING})", text) if part]


def embedding_name(text: str) -> tuple[str, str]:
    """Return the name after `embedding:`, up to a blank or bracket, and the text that follows."""
    name, *others = text.removeprefix(EMBEDDING).split() or [""]
    following = " ".join(others)
    bracket = re.search(r"[<\[]", name)
    if bracket:
        following = f"{name[bracket.start() :]} {following}".rstrip()
        name = name[: bracket.start()]
    return name, following
