"""Translate captions, and transfer each box to the translation of its phrase.

A translator does not tell which words were translated to which, and its attention is unreliable for
that. So each phrase is also translated by itself, and searched in the translated caption by
similarity, as words are inflected there ("ein roter Hund", "eines roten Hundes").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ..shared.batching import in_batches
from ..shared.errors import UserError
from ..shared.letters import LETTER, UNSEGMENTED
from ..shared.model_folders import load_pretrained
from .grounding import GroundedText, Phrase

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL_TYPES = ("marian", "m2m_100", "nllb-moe")
"""Model types of transformers; NLLB's dense models are of the type m2m_100."""

BATCH_SIZE = 16
"""Texts."""

MIN_SIMILARITY = 0.6
"""Least similarity (0..1, Ratcliff and Obershelp 1988) of a phrase and its words in the caption."""


class LanguageCodes(NamedTuple):
    """Codes of a language in M2M100, in NLLB, and in MarianMT's multilingual models."""

    m2m: str
    nllb: str
    marian: str


LANGUAGES = {
    "Arabic": LanguageCodes("ar", "arb_Arab", "ara"),
    "Chinese": LanguageCodes("zh", "zho_Hans", "cmn_Hans"),
    "Czech": LanguageCodes("cs", "ces_Latn", "ces"),
    "Danish": LanguageCodes("da", "dan_Latn", "dan"),
    "Dutch": LanguageCodes("nl", "nld_Latn", "nld"),
    "English": LanguageCodes("en", "eng_Latn", "eng"),
    "French": LanguageCodes("fr", "fra_Latn", "fra"),
    "German": LanguageCodes("de", "deu_Latn", "deu"),
    "Greek": LanguageCodes("el", "ell_Grek", "ell"),
    "Hebrew": LanguageCodes("he", "heb_Hebr", "heb"),
    "Hindi": LanguageCodes("hi", "hin_Deva", "hin"),
    "Indonesian": LanguageCodes("id", "ind_Latn", "ind"),
    "Italian": LanguageCodes("it", "ita_Latn", "ita"),
    "Japanese": LanguageCodes("ja", "jpn_Jpan", "jpn"),
    "Korean": LanguageCodes("ko", "kor_Hang", "kor"),
    "Polish": LanguageCodes("pl", "pol_Latn", "pol"),
    "Portuguese": LanguageCodes("pt", "por_Latn", "por"),
    "Romanian": LanguageCodes("ro", "ron_Latn", "ron"),
    "Russian": LanguageCodes("ru", "rus_Cyrl", "rus"),
    "Spanish": LanguageCodes("es", "spa_Latn", "spa"),
    "Swedish": LanguageCodes("sv", "swe_Latn", "swe"),
    "Thai": LanguageCodes("th", "tha_Thai", "tha"),
    "Turkish": LanguageCodes("tr", "tur_Latn", "tur"),
    "Ukrainian": LanguageCodes("uk", "ukr_Cyrl", "ukr"),
    "Vietnamese": LanguageCodes("vi", "vie_Latn", "vie"),
}


@dataclass(frozen=True)
class Translator:
    """A loaded translator, in evaluation mode, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str


def load_translator(folder: Path, dtype: torch.dtype) -> Translator:
    """Load the MarianMT, M2M100 or NLLB in `folder`; nothing is downloaded.

    Raises UserError when a file is missing or broken, or when the model is of another type.
    """
    model, tokenizer = load_pretrained(
        folder,
        dtype,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        MODEL_TYPES,
        "choose a MarianMT, M2M100 or NLLB",
    )
    return Translator(model, tokenizer, folder.name)


def translate(
    translator: Translator,
    captions: Sequence[GroundedText],
    language: str,
    *,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[GroundedText]:
    """Translate English captions and their phrases.

    A phrase that is not found in the translation keeps its boxes, with an empty text. `on_batch` is
    called as on_batch(done, total), counted in captions and phrases. Raises UserError when the
    translator does not support the language.
    """
    sources = [text.caption for text in captions]
    sources += [phrase.text for text in captions for phrase in text.phrases]
    texts = sorted((text for text in dict.fromkeys(sources) if text.strip()), key=len)
    target = _target(translator, language)

    def work(batch: slice) -> list[str]:
        return _generate(translator, texts[batch], target)

    translated = dict(zip(texts, in_batches(len(texts), BATCH_SIZE, work, on_batch), strict=True))
    return [
        transfer_boxes(
            translated.get(text.caption, ""),
            [(translated.get(phrase.text, ""), phrase) for phrase in text.phrases],
        )
        for text in captions
    ]


class _Target(NamedTuple):
    """The prefix of source texts, and the first token of translations, which set the language."""

    prefix: str = ""
    token: int | None = None


def _target(translator: Translator, language: str) -> _Target:
    tokenizer, codes = translator.tokenizer, LANGUAGES[language]
    if translator.model.config.model_type == "marian":
        supported = [code for code in getattr(tokenizer, "supported_language_codes", []) if code]
        if not supported:
            return _Target()  # a model for one pair of languages
        for code in (codes.marian, codes.m2m):
            if f">>{code}<<" in supported:
                return _Target(prefix=f">>{code}<< ")
    for name, source in ((f"__{codes.m2m}__", "en"), (codes.nllb, LANGUAGES["English"].nllb)):
        token = tokenizer.convert_tokens_to_ids(name)
        if token not in (None, tokenizer.unk_token_id):
            tokenizer.src_lang = source
            return _Target(token=token)
    raise UserError(
        f'"{translator.name}" does not support {language}: choose another language or translator.'
    )


@torch.no_grad()
def _generate(translator: Translator, texts: Sequence[str], target: _Target) -> list[str]:
    inputs = translator.tokenizer(
        [target.prefix + text for text in texts], padding=True, return_tensors="pt"
    ).to(translator.model.device)
    sequences = translator.model.generate(
        **inputs,
        forced_bos_token_id=target.token,
        do_sample=False,
        max_new_tokens=2 * inputs["input_ids"].shape[1] + 16,
    )
    # Not every tokenizer skips the language token, which is the second one.
    ids = sequences[:, 1:] if target.token is None else sequences[:, 2:]
    translations = translator.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in translations]


def transfer_boxes(caption: str, phrases: Sequence[tuple[str, Phrase]]) -> GroundedText:
    """Find translated phrases in a translated caption, and give them the boxes of the originals.

    `phrases` are pairs of a translation and the original. No two phrases share a word; matches are
    assigned greedily, the most similar first.
    """
    spans = _word_spans(caption)
    matches: list[tuple[float, int, range]] = []
    for k, (translation, _) in enumerate(phrases):
        size = len(_word_spans(translation))
        for length in range(max(1, size - 1), size + 3):
            for start in range(len(spans) - length + 1):
                words = range(start, start + length)
                text = caption[spans[start][0] : spans[words[-1]][1]]
                ratio = SequenceMatcher(None, translation.lower(), text.lower()).ratio()
                if ratio >= MIN_SIMILARITY:
                    matches.append((ratio, k, words))
    assigned: dict[int, range] = {}
    used: set[int] = set()
    for _, k, words in sorted(matches, key=lambda match: (-match[0], match[1], match[2].start)):
        if k not in assigned and used.isdisjoint(words):
            assigned[k] = words
            used.update(words)
    transferred = []
    for k, (_, phrase) in enumerate(phrases):
        start = end = len(caption)
        if k in assigned:
            start, end = spans[assigned[k][0]][0], spans[assigned[k][-1]][1]
        transferred.append(Phrase(caption[start:end], start, end, phrase.boxes))
    return GroundedText(caption, tuple(sorted(transferred, key=lambda phrase: phrase.start)))


def _word_spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of words, or of letters in scripts that do not separate words."""
    return [match.span() for match in re.finditer(rf"{UNSEGMENTED}|(?:{LETTER})+", text)]
