"""Randomness is addressed: what is drawn depends on where, not on when."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.training.data.step_sampler import StepSampler

DECK = StepSampler(seed=3, kind="subject", slots=4, pictures=5, shape=(2, 3, 3), timesteps=1000)


def test_a_draw_is_the_same_whatever_was_drawn_before() -> None:
    late_only = DECK.draw(9, 2)
    for step in range(9):
        DECK.draw(step, 0)
    torch.rand(5)
    again = DECK.draw(9, 2)
    assert (again.picture, again.timestep) == (late_only.picture, late_only.timestep)
    assert torch.equal(again.noise, late_only.noise)
    assert torch.equal(again.posterior, late_only.posterior)


def test_steps_slots_seeds_and_kinds_draw_differently() -> None:
    class_deck = StepSampler(3, "class", 4, 5, (2, 3, 3), 1000)
    other_seed = StepSampler(4, "subject", 4, 5, (2, 3, 3), 1000)
    draws = [DECK.draw(0, 0), DECK.draw(0, 1), DECK.draw(1, 0)]
    draws += [class_deck.draw(0, 0), other_seed.draw(0, 0)]
    sums = {float(drawn.noise.sum()) for drawn in draws}
    assert len(sums) == len(draws)
    assert not torch.equal(draws[0].noise, draws[0].posterior)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 50))
def test_every_picture_is_seen_once_before_any_is_seen_again(
    slots: int, pictures: int, seed: int
) -> None:
    deck = StepSampler(seed, "subject", slots, pictures, (1,), 10)
    seen = [deck.draw(step, slot).picture for step in range(pictures) for slot in range(slots)]
    for deal in range(slots):
        hand = seen[deal * pictures : (deal + 1) * pictures]
        assert sorted(hand) == list(range(pictures))
