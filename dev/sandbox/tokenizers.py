"""The sandbox's two tokenizers, in the classes the real models use, over the world's few words."""

from __future__ import annotations

import itertools
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, Kosmos2Processor, XLMRobertaTokenizer
from transformers.models.clip import CLIPImageProcessor

from ...sandbox.world.lexicon import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PATTERNS,
    RARE_TOKENS,
    TRANSLATIONS,
)

KOSMOS_PIXELS = 112
TEXT_LENGTH = 32
"""Tokens that the diffusion model's text encoder reads, begin and end included."""

_GLUE = (
    "a an and the of in on at by is are there then it all this that one two three four to "
    "left right middle large small there There Then All what where how many colour color question "
    "answer yes no photo picture drawing image An Describe detail with its who which under above"
)


def english_words() -> list[str]:
    """Every word that captions, prompts and questions in English are made of."""
    plurals = [kind + "s" for kind in KINDS if kind != "fish"]
    backgrounds = " ".join(BACKGROUNDS.values()).split()
    words = [*_GLUE.split(), *KINDS, *plurals, *COLOURS, *PATTERNS, *backgrounds, *RARE_TOKENS]
    return list(dict.fromkeys(words))


def kosmos_processor() -> Kosmos2Processor:
    """Kosmos-2's processor: a unigram vocabulary of whole words with single characters to fall
    back on, and the 1,024 location tokens that the class itself adds."""
    foreign = {
        w for table in TRANSLATIONS.values() for text in table.values() for w in text.split()
    }
    words = [*english_words(), *sorted(foreign)]
    characters = sorted({c for word in words for c in word} | set(map(chr, range(33, 127))) - {"▁"})
    vocab = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [("▁" + word, -2.0) for word in words if len(word) > 1]
    vocab += [("▁", -4.0), *((c, -6.0) for c in characters), ("▁a", -2.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocab)
    side = {"height": KOSMOS_PIXELS, "width": KOSMOS_PIXELS}
    image_processor = CLIPImageProcessor(size={"shortest_edge": KOSMOS_PIXELS}, crop_size=side)
    return Kosmos2Processor(image_processor, tokenizer)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer whose merges build each word of the world into one token.

    Each word is cut by the merges so far, and what is left of it is joined by new merges of
    lower priority, which cannot undo a word that is whole already.
    """
    letters = sorted(ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    ranks: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(w.lower() for w in english_words()):
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            pairs = list(itertools.pairwise(symbols))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                best = pairs[0]
                ranks[best] = len(ranks)
                pieces.append("".join(best))
            k = pairs.index(best)
            symbols[k : k + 2] = ["".join(best)]
    vocab = {piece: k for k, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=list(ranks), model_max_length=TEXT_LENGTH)


def save(processor: Kosmos2Processor | CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer's files as ``from_pretrained`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
