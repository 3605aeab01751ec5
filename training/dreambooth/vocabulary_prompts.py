"""Prompts of random vocabulary words, for prior preservation beyond the class caption."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..data.step_sampler import generator

PROMPT_COUNT = 128
MAX_WORDS = 6
MIN_LETTERS = 3
WORD_END = "</w>"
"""The suffix of those tokens of CLIP's vocabulary that end a word."""


def vocabulary_prompts(
    vocabulary: Iterable[str], token: str, class_name: str, seed: int
) -> list[str]:
    """Return PROMPT_COUNT prompts "a <words>"; [] when there are fewer than two words.

    Each has 2 to MAX_WORDS words, which are drawn from CLIP's vocabulary: MIN_LETTERS letters or
    more, and not `token`. In every other prompt one of them is the class, so that it stays itself
    beside any word ("a red dog") and not only in the class caption.
    """
    entries = (entry for entry in vocabulary if entry.endswith(WORD_END))
    candidates = sorted({entry.removesuffix(WORD_END) for entry in entries} - {token.lower()})
    choices = [word for word in candidates if word.isalpha() and len(word) >= MIN_LETTERS]
    if len(choices) < 2:
        return []
    source = generator(seed, "other words")
    prompts = []
    for index in range(PROMPT_COUNT):
        count = int(torch.randint(2, MAX_WORDS + 1, (), generator=source))
        words = [choices[k] for k in torch.randint(len(choices), (count,), generator=source)]
        if index % 2:
            words[int(torch.randint(count, (), generator=source))] = class_name
        prompts.append(f"a {' '.join(words)}")
    return prompts
