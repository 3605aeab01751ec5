"""Put a subject's trigger word into captions that any captioner wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ...kosmos.grounding import GroundedText, Phrase
from ...shared.letters import LETTER

REPLACE, BEFORE, IN_FRONT = "replace class", "before class", "in front"
TRIGGER_RULES = (REPLACE, BEFORE, IN_FRONT)


class _Edit(NamedTuple):
    """Text in place of `caption[start:end]`."""

    start: int
    end: int
    text: str

    def apply(self, caption: str) -> str:
        return caption[: self.start] + self.text + caption[self.end :]


def with_trigger_word(caption: str, token: str, class_name: str, rule: str) -> str:
    """Return a caption with the token where a rule of TRIGGER_RULES puts it, in each of its lines.

    "replace class" puts it in place of the class name, "before class" before it, wherever that
    stands as a word of its own, in any case, also in the plural; "in front", and a line without the
    class name, gets it at the start. A line that has the token is not changed, and an empty caption
    becomes "a <token> <class_name>".

    >>> with_trigger_word("Two dogs and a hotdog.", "sks", "dog", "before class")
    'Two sks dogs and a hotdog.'
    """
    return _edited(caption, _edits(caption, token, class_name, rule))


def ground_trigger_word(text: GroundedText, token: str, class_name: str, rule: str) -> GroundedText:
    """Return `with_trigger_word` of a grounded caption, whose phrases and boxes are kept."""
    edits = _edits(text.caption, token, class_name, rule)
    caption = _edited(text.caption, edits)
    phrases = []
    for phrase in text.phrases:
        start = _moved(phrase.start, edits, is_start=True)
        end = max(start, _moved(phrase.end, edits, is_start=False))
        words = caption[start:end]
        start += len(words) - len(words.lstrip())
        words = words.strip()
        phrases.append(Phrase(words, start, start + len(words), phrase.boxes))
    return GroundedText(caption, tuple(phrases))


def has_word(text: str, word: str) -> bool:
    """Whether a text has a word that is no part of another word."""
    return bool(re.search(_as_word(re.escape(word)), text))


def _edits(caption: str, token: str, class_name: str, rule: str) -> list[_Edit]:
    if not caption.strip():
        return [_Edit(0, len(caption), f"a {token} {class_name}")]
    noun = r"\s+".join(map(re.escape, class_name.split()))
    plural = rf"{noun}(?:e?s)?" if not re.search(r"[^aeiou]y$", noun) else rf"{noun[:-1]}(?:y|ies)"
    pattern = re.compile(_as_word(plural), re.IGNORECASE)
    edits = []
    for line in re.finditer(r"[^\n\r]*\S[^\n\r]*", caption):
        if has_word(line[0], token):
            continue
        found = [] if rule == IN_FRONT else list(pattern.finditer(caption, *line.span()))
        if not found:
            name = f"{token} {class_name}" if rule == BEFORE else token
            start = line.end() - len(line[0].lstrip())
            edits.append(_Edit(start, start, f"{name}, "))
        for match in found:
            before = " " if caption[match.start() - 1 : match.start()].isalnum() else ""
            after = " " if caption[match.end() : match.end() + 1].isalnum() else ""
            if rule == BEFORE:
                edits.append(_Edit(match.start(), match.start(), f"{before}{token} "))
            else:
                edits.append(_Edit(*match.span(), f"{before}{token}{after}"))
    return edits


def _as_word(pattern: str) -> str:
    return rf"(?<!{_LETTER})(?<!-)(?:{pattern})(?!{_LETTER}|-)"


_LETTER = f"(?:{LETTER})"


def _edited(caption: str, edits: Sequence[_Edit]) -> str:
    for edit in reversed(edits):
        caption = edit.apply(caption)
    return caption


def _moved(offset: int, edits: Sequence[_Edit], *, is_start: bool) -> int:
    """Return where the start or the end of a phrase is after edits."""
    shift = 0
    for start, end, text in edits:
        if end < offset or (end == offset and (start < end or is_start)):
            shift += len(text) - (end - start)
        elif start < offset:  # inside of what was replaced
            return shift + (start if is_start else start + len(text))
    return offset + shift
