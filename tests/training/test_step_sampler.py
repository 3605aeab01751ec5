"""Randomness is addressed: what is drawn depends on where, not on when."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.training.data.step_sampler import StepSampler

DECK = StepSampler(
    seed=3, kind="subject", slots=4, image_count=5, shape=(2, 3, 3), num_timesteps=1000
)


def test_a_draw_is_the_same_whatever_was_drawn_before() -> None:
    late_only = DECK.sample(9, 2)
    for step in range(9):
        DECK.sample(step, 0)
    torch.rand(5)
    again = DECK.sample(9, 2)
    assert (again.image_index, again.timestep) == (late_only.image_index, late_only.timestep)
    assert torch.equal(again.noise, late_only.noise)
    assert torch.equal(again.posterior_noise, late_only.posterior_noise)


def test_steps_slots_seeds_and_kinds_draw_differently() -> None:
    class_deck = StepSampler(3, "class", 4, 5, (2, 3, 3), 1000)
    other_seed = StepSampler(4, "subject", 4, 5, (2, 3, 3), 1000)
    draws = [DECK.sample(0, 0), DECK.sample(0, 1), DECK.sample(1, 0)]
    draws += [class_deck.sample(0, 0), other_seed.sample(0, 0)]
    sums = {float(drawn.noise.sum()) for drawn in draws}
    assert len(sums) == len(draws)
    assert not torch.equal(draws[0].noise, draws[0].posterior_noise)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 50))
def test_every_picture_is_seen_once_before_any_is_seen_again(
    slots: int, pictures: int, seed: int
) -> None:
    deck = StepSampler(seed, "subject", slots, pictures, (1,), 10)
    seen = [
        deck.sample(step, slot).image_index for step in range(pictures) for slot in range(slots)
    ]
    for deal in range(slots):
        hand = seen[deal * pictures : (deal + 1) * pictures]
        assert sorted(hand) == list(range(pictures))
