"""How the next word is chosen: the likeliest one, or one drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """How text is written.

    With `beams` above 1 the likeliest of several texts is kept (beam search). Otherwise
    `temperature` 0 takes the likeliest token each time (greedy); above 0, tokens are drawn from the
    distribution sharpened (below 1) or flattened (above 1) by it, out of the likeliest ones that
    together have the probability `top_p` (nucleus sampling, Holtzman et al. 2020,
    arXiv:1904.09751). Draws are addressed by (`seed`, row, token), so they do not depend on the
    batch size.
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

    Returns the tokens, and the probability (0..1) that the model gave each, before temperature and
    nucleus. `rows` are the rows' numbers in the whole work, and `step` counts the new tokens.
    """
    greedy = decoding.temperature == 0
    tokens = logits.argmax(-1) if greedy else _draw(logits, decoding, rows, step)
    sure = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)).exp()
    return tokens.tolist(), sure.tolist()


def _draw(logits: Tensor, decoding: Decoding, rows: Sequence[int], step: int) -> Tensor:
    """Cut each row's likeliest tokens where `top_p` is reached, and draw from what is left."""
    likely, order = (logits / decoding.temperature).softmax(-1).sort(-1, descending=True)
    total = likely.cumsum(-1)
    likely = likely.masked_fill(total - likely >= decoding.top_p, 0.0)
    total = likely.cumsum(-1)
    drawn = torch.tensor([_uniform(decoding.seed, row, step) for row in rows], device=logits.device)
    place = torch.searchsorted(total, (drawn * total[:, -1])[:, None].to(total), right=True)
    last = (likely > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(place, last))[:, 0]


def _uniform(seed: int, row: int, step: int) -> float:
    """A number in [0, 1) for one token of one row (Philox, Salmon et al. 2011)."""
    source = np.random.Philox(key=seed, counter=[0, 0, row, step])
    return float(np.random.Generator(source).random())
