"""Choose the next token: greedy, or by nucleus sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """Decoding strategy.

    `beams` above 1 is beam search. Otherwise `temperature` 0 is greedy decoding, and above 0 tokens
    are sampled: logits are divided by it, and only the most probable tokens with the cumulative
    probability `top_p` remain (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751). Random
    numbers depend on (`seed`, row, token) only, not on the batch size.
    """

    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Decoding()


def choose_next_token(
    logits: Tensor, decoding: Decoding, rows: Sequence[int], step: int
) -> tuple[list[int], list[float]]:
    """Choose a token in each row of `logits`, float32 [R,V].

    Returns the tokens and their probabilities (0..1) before temperature and nucleus. `rows` are the
    indices of the rows among all prompts, and `step` is the index of the new token.
    """
    greedy = decoding.temperature == 0
    tokens = logits.argmax(-1) if greedy else _sample(logits, decoding, rows, step)
    probabilities = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)).exp()
    return tokens.tolist(), probabilities.tolist()


def _sample(logits: Tensor, decoding: Decoding, rows: Sequence[int], step: int) -> Tensor:
    """Sample a token of each row from its nucleus."""
    sorted_probs, order = (logits / decoding.temperature).softmax(-1).sort(-1, descending=True)
    cumulative = sorted_probs.cumsum(-1)
    nucleus = sorted_probs.masked_fill(cumulative - sorted_probs >= decoding.top_p, 0.0)
    cumulative = nucleus.cumsum(-1)
    uniform = torch.tensor([_uniform(decoding.seed, r, step) for r in rows], device=logits.device)
    target = (uniform * cumulative[:, -1])[:, None].to(cumulative)
    index = torch.searchsorted(cumulative, target, right=True)
    last = (nucleus > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(index, last))[:, 0]


def _uniform(seed: int, row: int, step: int) -> float:
    """Return a uniform random number in [0, 1) (Philox, Salmon et al. 2011)."""
    bits = np.random.Philox(key=seed, counter=[0, 0, row, step])
    return float(np.random.Generator(bits).random())
