"""A caption's words, and the tokens in which Kosmos-2 reads or writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..shared.errors import UserError
from .generate.caption import BRIEF
from .grounding import GroundedText, write
from .kosmos_model import Kosmos
from .prompt import tokenize

UNPARTED = "[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]"
"""A letter, or a sign on one, of Thai, Japanese or Chinese, which part no words."""

LETTER = rf"(?!{UNPARTED})[\w\u0900-\u0963]"
"""Any other letter; Hindi's vowel signs, which Python does not count among letters, are."""

_WORD = re.compile(rf"{UNPARTED}|(?:{LETTER})+(?:['’-](?:{LETTER})+)*")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Word:
    """A word of a caption: `text` is `caption[start:end]`.

    In scripts that part no words it is a letter.
    `tokens` are the places of its tokens in the whole sequence, image slots included.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TokenizedCaption:
    """A caption as the decoder reads it: tokens, where the image slots are, and its words.

    `ids` has the whole sequence. `slots` are the indices from the first slot to behind the last.
    """

    caption: str
    ids: tuple[int, ...]
    slots: tuple[int, int]
    words: tuple[Word, ...]

    def named(self, wanted: Sequence[str]) -> tuple[Word, ...]:
        """Return the words of these texts, in reading order, upper and lower case alike.

        Without any, all words behind "An image of". Raises UserError for one that is not there.
        """
        if not wanted:
            beginning = len(BRIEF) if self.caption.startswith(BRIEF) else 0
            return tuple(word for word in self.words if word.start >= beginning)
        lower = {text.lower() for text in wanted}
        missing = lower - {word.text.lower() for word in self.words}
        if missing:
            raise UserError(
                f'There is no word "{min(missing)}" in the caption "{self.caption}": choose from '
                "its words, or leave words empty for all."
            )
        return tuple(word for word in self.words if word.text.lower() in lower)


def tokenize_caption(kosmos: Kosmos, told: GroundedText) -> TokenizedCaption:
    """Write a caption with its tags and boxes behind `<grounding>`, as the model would, and find
    its words.

    One that does not begin with "An image of" is read as if it did. Raises UserError for a
    caption without a word, and for one that the decoder has no room for.
    """
    raw = write(told)
    if not told.caption.startswith(BRIEF):
        raw = f"{BRIEF} {raw}"
    prompt = tokenize(kosmos, raw, 0)
    text = f"<grounding>{raw.strip()}"
    encoded = kosmos.processor.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True
    )
    blanked = _TAG.sub(lambda tag: " " * len(tag[0]), text)
    inside = [(match.start(), match.end()) for match in _WORD.finditer(blanked)]
    own = list(_WORD.finditer(told.caption))
    if not own:
        raise UserError("A caption has no words: write one, or leave caption empty.")
    words = []
    for match, (start, end) in zip(own, inside[len(inside) - len(own) :], strict=True):
        tokens = tuple(
            prompt.text_at + k
            for k, (left, right) in enumerate(encoded["offset_mapping"])
            if left < end and right > start
        )
        words.append(Word(match[0], match.start(), match.end(), tokens))
    return TokenizedCaption(told.caption, prompt.ids, prompt.slots, tuple(words))
