"""Tokens are chosen greedily, or by seeded nucleus sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kosmos_dreambooth.kosmos.generate.decoding import GREEDY, Decoding, choose_next_token

PROBABILITIES = [[0.1, 0.5, 0.3, 0.1], [0.05, 0.05, 0.2, 0.7]]


def test_greedy_decoding_takes_the_most_probable_token() -> None:
    tokens, probabilities = choose_next_token(torch.tensor(PROBABILITIES).log(), GREEDY, [0, 1], 0)
    assert tokens == [1, 3]
    assert probabilities == pytest.approx([0.5, 0.7])


@pytest.mark.parametrize("seed", [0, 3, 2**63])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (0.5, 0.9), (1.0, 0.6)])
def test_sampled_tokens_follow_from_seed_row_and_step(
    seed: int, temperature: float, top_p: float
) -> None:
    decoding = Decoding(temperature=temperature, top_p=top_p, seed=seed)
    rows, step = [4, 9], 7
    tokens, probabilities = choose_next_token(
        torch.tensor(PROBABILITIES).log(), decoding, rows, step
    )
    for k, row in enumerate(rows):
        scaled = np.array(PROBABILITIES[k]) ** (1 / temperature)
        order = np.argsort(-scaled, kind="stable")
        scaled = scaled[order] / scaled.sum()
        scaled[np.cumsum(scaled) - scaled >= top_p - 1e-6] = 0
        bits = np.random.Philox(key=seed, counter=[0, 0, row, step])
        uniform = np.random.Generator(bits).random()
        expected = order[np.searchsorted(np.cumsum(scaled), uniform * scaled.sum(), side="right")]
        assert tokens[k] == expected
        assert probabilities[k] == pytest.approx(PROBABILITIES[k][expected])
