"""Prompts of random vocabulary words, for prior preservation beyond the class."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..data.step_sampler import generator

PROMPT_COUNT = 64
MIN_LETTERS = 3
WORD_END = "</w>"
"""The suffix of those tokens of CLIP's vocabulary that end a word."""


def vocabulary_prompts(vocabulary: Iterable[str], token: str, seed: int) -> list[str]:
    """Return PROMPT_COUNT prompts "a <word> <word>"; [] when there are fewer than two words.

    The words are drawn from CLIP's vocabulary: MIN_LETTERS letters or more, and not `token`.
    """
    entries = (entry for entry in vocabulary if entry.endswith(WORD_END))
    candidates = sorted({entry.removesuffix(WORD_END) for entry in entries} - {token.lower()})
    words = [word for word in candidates if word.isalpha() and len(word) >= MIN_LETTERS]
    if len(words) < 2:
        return []
    source = generator(seed, "other words")
    pairs = torch.randint(len(words), (PROMPT_COUNT, 2), generator=source)
    return [f"a {words[first]} {words[second]}" for first, second in pairs.tolist()]
