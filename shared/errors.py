"""The error for what users can fix, and the text that messages may contain."""

from __future__ import annotations

import re
import unicodedata

LONGEST_QUOTE = 80
"""Characters of a quoted value that a message shows."""

LONGEST_MESSAGE = 1500
"""Characters of a message; of a longer one the middle is left out."""

BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class UserError(ValueError):
    """A message in one sentence that names the wrong input and the remedy, made `printable`.

    ComfyUI shows it on the node that raised it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Return a text as one line that every log, console and web page can show.

    Lone surrogates and control characters, also those that change the direction of text, become
    escapes; white space is one space. Quoted values are cut to LONGEST_QUOTE characters.

    >>> printable("a\tb\x1b\ud800")
    'a b\\x1b\\ud800'
    """
    line = "".join(map(_visible, " ".join(text.split())))
    line = re.sub(r'"([^"]*)"', lambda match: f'"{shortened(match[1])}"', line)
    return shortened(line, LONGEST_MESSAGE)


def shortened(text: str, longest: int = LONGEST_QUOTE) -> str:
    """Return a text, of a longer one its start and its end."""
    if len(text) <= longest:
        return text
    start = longest * 2 // 3
    return f"{text[:start]}...{text[len(text) - (longest - start - 3) :]}"


def _visible(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cs") or character in BIDI_CONTROLS:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character
