"""Map the words of a caption to their tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..shared.errors import UserError
from ..shared.letters import LETTER, UNSEGMENTED
from .generate.caption import BRIEF
from .grounding import GroundedText, serialize
from .kosmos_model import Kosmos
from .prompt import tokenize

_WORD = re.compile(rf"{UNSEGMENTED}|(?:{LETTER})+(?:['’-](?:{LETTER})+)*")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Word:
    """A word of a caption: `text` is `caption[start:end]`.

    In scripts that do not separate words it is a letter. `tokens` are the indices of its tokens in
    the sequence, image slots included.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TokenizedCaption:
    """A caption with its token ids, image slots included, and its words.

    `slots` is the range (start, stop) of the image slots.
    """

    caption: str
    ids: tuple[int, ...]
    slots: tuple[int, int]
    words: tuple[Word, ...]

    def find_words(self, texts: Sequence[str]) -> tuple[Word, ...]:
        """Return the words with one of `texts`, in reading order, ignoring case.

        Without `texts`, all words after "An image of". Raises UserError for a text that is no word
        of the caption, and when there is no word after "An image of".
        """
        if not texts:
            beginning = len(BRIEF) if self.caption.startswith(BRIEF) else 0
            words = tuple(word for word in self.words if word.start >= beginning)
            if not words:
                raise UserError(f'The caption "{self.caption}" has no words: write some.')
            return words
        lower = {text.lower() for text in texts}
        missing = lower - {word.text.lower() for word in self.words}
        if missing:
            raise UserError(
                f'There is no word "{min(missing)}" in the caption "{self.caption}": choose from '
                "its words, or leave words empty for all."
            )
        return tuple(word for word in self.words if word.text.lower() in lower)


def tokenize_caption(kosmos: Kosmos, grounded: GroundedText) -> TokenizedCaption:
    """Tokenize a caption with its tags and boxes, after `<grounding>`, and find its words.

    "An image of" is put before a caption that does not begin with it. Raises UserError for a
    caption without words, and for one that exceeds the decoder's positions.
    """
    raw = serialize(grounded)
    if not grounded.caption.startswith(BRIEF):
        raw = f"{BRIEF} {raw}"
    prompt = tokenize(kosmos, raw, 0)
    text = f"<grounding>{raw.strip()}"
    encoded = kosmos.processor.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True
    )
    without_tags = _TAG.sub(lambda tag: " " * len(tag[0]), text)
    spans = [(match.start(), match.end()) for match in _WORD.finditer(without_tags)]
    matches = list(_WORD.finditer(grounded.caption))
    if not matches:
        raise UserError("A caption has no words: write one, or leave caption empty.")
    words = []
    for match, (start, end) in zip(matches, spans[len(spans) - len(matches) :], strict=True):
        tokens = tuple(
            prompt.text_start + k
            for k, (left, right) in enumerate(encoded["offset_mapping"])
            if left < end and right > start
        )
        words.append(Word(match[0], match.start(), match.end(), tokens))
    return TokenizedCaption(grounded.caption, prompt.ids, prompt.slots, tuple(words))
