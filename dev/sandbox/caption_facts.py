"""Parse a caption of the drawn world into facts: kinds, their colours, and the background."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...sandbox.world.lexicon import BACKGROUNDS, COLOURS, KINDS

SINGULAR = {kind + "s": kind for kind in KINDS} | {kind: kind for kind in KINDS}


@dataclass(frozen=True)
class Facts:
    """A text's pairs of kind and colour ("" if not named), and its background ("" if not named)."""

    things: tuple[tuple[str, str], ...]
    background: str

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that are named."""
        return frozenset(kind for kind, _ in self.things)


def read_facts(text: str) -> Facts:
    """Parse any text about the world; a colour belongs to the next kind after it."""
    things, colour = [], ""
    for word in re.findall(r"\w+", text.lower()):
        if word in COLOURS:
            colour = word
        elif word in SINGULAR:
            things.append((SINGULAR[word], colour))
            colour = ""
    named = [name for name, words in BACKGROUNDS.items() if words in text.lower()]
    return Facts(tuple(things), named[0] if named else "")
