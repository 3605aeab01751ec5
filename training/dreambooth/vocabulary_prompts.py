"""Prompts of random vocabulary words, for prior preservation beyond the class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.step_sampler import generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_COUNT = 64
MIN_LETTERS = 3
WORD_END = "</w>"
"""The suffix of those tokens of CLIP's vocabulary that end a word."""


def vocabulary_prompts(tokenizer: PreTrainedTokenizerBase, token: str, seed: int) -> list[str]:
    """Return PROMPT_COUNT prompts "a <word> <word>"; [] when there are fewer than two words.

    The words are drawn from CLIP's vocabulary: MIN_LETTERS letters or more, and not `token`.
    """
    entries = (entry for entry in tokenizer.get_vocab() if entry.endswith(WORD_END))
    vocabulary = sorted({entry.removesuffix(WORD_END) for entry in entries} - {token.lower()})
    words = [word for word in vocabulary if word.isalpha() and len(word) >= MIN_LETTERS]
    if len(words) < 2:
        return []
    source = generator(seed, "other words")
    pairs = torch.randint(len(words), (PROMPT_COUNT, 2), generator=source)
    return [f"a {words[first]} {words[second]}" for first, second in pairs.tolist()]
