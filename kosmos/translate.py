"""Translate captions, and keep each box on the words that it belongs to.

A translator does not say which words came from which, and its attention is no reliable witness. So
each phrase is translated by itself as well, and looked for in the translated caption: not letter by
letter, for languages bend their words ("ein roter Hund", "eines roten Hundes").
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
from ..shared.model_folders import load_pretrained
from .grounding import GroundedText, Phrase
from .tokenized_caption import LETTER, UNPARTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL_TYPES = ("marian", "m2m_100", "nllb-moe")
"""Model types of transformers; NLLB's dense models are of the type m2m_100."""

BATCH_SIZE = 16
"""Texts."""

MIN_SIMILARITY = 0.6
"""Least likeness (0..1, Ratcliff and Obershelp 1988) of a phrase and the words it is found in."""


class LanguageCodes(NamedTuple):
    """What a language is called by M2M100, by NLLB, and by MarianMT's multilingual models."""

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

    Raises UserError when a file is missing or broken, or when it is another kind of model.
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
    seen: Sequence[GroundedText],
    language: str,
    *,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[GroundedText]:
    """Translate English captions; phrases become the words that theirs were translated to.

    A phrase that is not found in the translation keeps its boxes, with an empty text. `on_batch`
    hears how many texts of how many are done, captions and phrases, the shortest first. Raises
    UserError when the translator does not know the language.
    """
    words = dict.fromkeys(phrase.text for text in seen for phrase in text.phrases if phrase.text)
    sources = [*dict.fromkeys(text.caption for text in seen), *words]
    texts = sorted((text for text in dict.fromkeys(sources) if text.strip()), key=len)
    first = _target(translator, language)

    def work(batch: slice) -> list[str]:
        return _write(translator, texts[batch], first)

    translated = dict(zip(texts, in_batches(len(texts), BATCH_SIZE, work, on_batch), strict=True))
    return [
        transfer_boxes(
            translated.get(text.caption, ""),
            [(translated.get(phrase.text, ""), phrase) for phrase in text.phrases],
        )
        for text in seen
    ]


class _Target(NamedTuple):
    """What a source text begins with, and the token that a translation begins with."""

    prefix: str = ""
    token: int | None = None


def _target(translator: Translator, language: str) -> _Target:
    tokenizer, codes = translator.tokenizer, LANGUAGES[language]
    if translator.model.config.model_type == "marian":
        known = [code for code in getattr(tokenizer, "supported_language_codes", []) if code]
        if not known:
            return _Target()  # a model for one pair of languages
        for code in (codes.marian, codes.m2m):
            if f">>{code}<<" in known:
                return _Target(prefix=f">>{code}<< ")
    for name, source in ((f"__{codes.m2m}__", "en"), (codes.nllb, LANGUAGES["English"].nllb)):
        token = tokenizer.convert_tokens_to_ids(name)
        if token not in (None, tokenizer.unk_token_id):
            tokenizer.src_lang = source
            return _Target(token=token)
    raise UserError(
        f'"{translator.name}" cannot write {language}: choose another language or translator.'
    )


@torch.no_grad()
def _write(translator: Translator, texts: Sequence[str], target: _Target) -> list[str]:
    inputs = translator.tokenizer(
        [target.prefix + text for text in texts], padding=True, return_tensors="pt"
    ).to(translator.model.device)
    written = translator.model.generate(
        **inputs,
        forced_bos_token_id=target.token,
        do_sample=False,
        max_new_tokens=2 * inputs["input_ids"].shape[1] + 16,
    )
    # The language stands in front; not every tokenizer counts it among its special tokens.
    said = written[:, 1:] if target.token is None else written[:, 2:]
    told = translator.tokenizer.batch_decode(said, skip_special_tokens=True)
    return [text.strip() for text in told]


def transfer_boxes(caption: str, phrases: Sequence[tuple[str, Phrase]]) -> GroundedText:
    """Find phrases in a caption, each given as it may read there, and put their boxes on it.

    No two phrases share a word; the one that is found best chooses first.
    """
    units = _units(caption)
    found: list[tuple[float, int, range]] = []
    for k, (wanted, _) in enumerate(phrases):
        size = len(_units(wanted))
        for length in range(max(1, size - 1), size + 3):
            for start in range(len(units) - length + 1):
                window = range(start, start + length)
                text = caption[units[start][0] : units[window[-1]][1]]
                likeness = SequenceMatcher(None, wanted.lower(), text.lower()).ratio()
                if likeness >= MIN_SIMILARITY:
                    found.append((likeness, k, window))
    places: dict[int, range] = {}
    taken: set[int] = set()
    for _, k, window in sorted(found, key=lambda one: (-one[0], one[1], one[2].start)):
        if k not in places and taken.isdisjoint(window):
            places[k] = window
            taken.update(window)
    placed = []
    for k, (_, phrase) in enumerate(phrases):
        window = places.get(k, range(0))
        start, end = (units[window[0]][0], units[window[-1]][1]) if window else (len(caption),) * 2
        placed.append(Phrase(caption[start:end], start, end, phrase.boxes))
    return GroundedText(caption, tuple(sorted(placed, key=lambda one: one.start)))


def _units(text: str) -> list[tuple[int, int]]:
    """Return where words stand; in scripts that part no words, where their letters do."""
    return [match.span() for match in re.finditer(rf"{UNPARTED}|(?:{LETTER})+", text)]
