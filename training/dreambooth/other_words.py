"""Prompts of words that a model knows and nobody asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.step_sampler import generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNT, LEAST = 64, 3
WORD_END = "</w>"
"""Ends those pieces of CLIP's vocabulary that end a word."""


def other_prompts(tokenizer: PreTrainedTokenizerBase, token: str, seed: int) -> list[str]:
    """Return COUNT prompts "a <word> <word>", drawn by the seed; [] when there are no two words.

    The words are those of LEAST letters or more in CLIP's vocabulary, but for `token`.
    """
    pieces = (piece for piece in tokenizer.get_vocab() if piece.endswith(WORD_END))
    known = sorted({piece.removesuffix(WORD_END) for piece in pieces} - {token.lower()})
    words = [word for word in known if word.isalpha() and len(word) >= LEAST]
    if len(words) < 2:
        return []
    places = torch.randint(len(words), (COUNT, 2), generator=generator(seed, "other words"))
    return [f"a {words[first]} {words[second]}" for first, second in places.tolist()]
