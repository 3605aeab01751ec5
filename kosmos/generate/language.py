"""Prompt for captions in another language, and check their language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ...shared.errors import UserError

ENGLISH = "English"

# Languages that share a script are distinguished by their most common words (Grefenstette 1995,
# "Comparing two language identification schemes"); those that are English words too do not count.
_COMMON_WORDS = {
    "German": "der die das den dem ein eine einen einem einer und mit auf ist sind im vor von zu",
    "Spanish": "el la los las un una unos y de del en con por es son al sobre",
    "French": "le la les un une des et de du dans avec sur est sont au aux sous",
    "Italian": "il lo la gli le un una di del della e in con su nel nella sono per",
    "Portuguese": "o os as um uma de do da em no na com e são por sobre ao",
    "Dutch": "de het een en van op met is zijn bij voor onder naast te",
    "Czech": "a na v ve se s je jsou z u pod nad vedle mezi před",
    "Danish": "og en et på i med af er den det under ved foran to",
    "Indonesian": "sebuah seekor seorang di dan yang dengan dari ke pada adalah dua",
    "Polish": "w na z ze i jest są do od przy pod nad obok przed",
    "Romanian": "un o și pe în cu de la este sunt lângă sub al",
    "Swedish": "och en ett på i med av är den det under vid bredvid framför",
    "Turkish": "bir ve ile bu üzerinde içinde altında yanında önünde olan iki",
    "Vietnamese": "một và trên trong với có là của con cái những các ở dưới",
}
_ENGLISH_WORDS = "the a an of in on at by is are and with image it to his her"

# By the names of their letters in Unicode.
_SCRIPTS = {
    "Arabic": ("ARABIC",),
    "Chinese": ("CJK",),
    "Greek": ("GREEK",),
    "Hebrew": ("HEBREW",),
    "Hindi": ("DEVANAGARI",),
    "Japanese": ("CJK", "HIRAGANA", "KATAKANA"),
    "Korean": ("HANGUL",),
    "Russian": ("CYRILLIC",),
    "Thai": ("THAI",),
    "Ukrainian": ("CYRILLIC",),
}

LANGUAGES = [ENGLISH, *sorted([*_COMMON_WORDS, *_SCRIPTS])]
"""Languages to choose from; Kosmos-2 was trained on English."""


def localized_prompt(language: str, prompt: str, *, detailed: bool) -> str:
    """Return the prompt for a caption in `language`; in English it is `prompt` itself.

    Fine-tuning on captions of a language should use the same prompt.
    """
    if language == ENGLISH:
        return prompt
    return f"Describe this image {'in detail ' if detailed else ''}in {language}:"


def check_language(language: str, captions: Sequence[str]) -> None:
    """Raise UserError when none of the captions is in `language`."""
    if language == ENGLISH or any(is_in(language, caption) for caption in captions):
        return
    example = captions[0] if len(captions[0]) <= 60 else f"{captions[0][:60]}…"
    raise UserError(
        f'The model cannot write {language} (it wrote "{example.rstrip(".")}"): set language to '
        "English and connect TranslateCaption, or load a model that was fine-tuned on "
        f"{language} captions."
    )


def is_in(language: str, text: str) -> bool:
    """Return whether a text is in one of LANGUAGES, judged by its letters or common words."""
    if language in _SCRIPTS:
        letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
        matches = sum(name.startswith(_SCRIPTS[language]) for name in letters)
        return 2 * matches > len(letters)
    words = re.findall(r"\w+", text.lower())
    english_words = set(_ENGLISH_WORDS.split())
    english = sum(word in english_words for word in words)
    if language == ENGLISH:
        return english > 0
    common = set(_COMMON_WORDS[language].split()) - english_words
    return sum(word in common for word in words) > english
