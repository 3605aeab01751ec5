"""Random values depend on seed, step and slot, and not on earlier samples."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.training.data.step_sampler import StepSampler

SAMPLER = StepSampler(
    seed=3, kind="subject", slots=4, image_count=5, shape=(2, 3, 3), num_timesteps=1000
)


def test_a_sample_does_not_depend_on_earlier_samples() -> None:
    late_only = SAMPLER.sample(9, 2)
    for step in range(9):
        SAMPLER.sample(step, 0)
    torch.rand(5)
    again = SAMPLER.sample(9, 2)
    assert (again.image_index, again.timestep) == (late_only.image_index, late_only.timestep)
    assert torch.equal(again.noise, late_only.noise)
    assert torch.equal(again.posterior_noise, late_only.posterior_noise)


def test_steps_slots_seeds_and_kinds_have_samples_of_their_own() -> None:
    class_sampler = StepSampler(3, "class", 4, 5, (2, 3, 3), 1000)
    other_seed = StepSampler(4, "subject", 4, 5, (2, 3, 3), 1000)
    samples = [SAMPLER.sample(0, 0), SAMPLER.sample(0, 1), SAMPLER.sample(1, 0)]
    samples += [class_sampler.sample(0, 0), other_seed.sample(0, 0)]
    sums = {float(sample.noise.sum()) for sample in samples}
    assert len(sums) == len(samples)
    assert not torch.equal(samples[0].noise, samples[0].posterior_noise)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 50))
def test_every_image_is_sampled_once_per_epoch(slots: int, images: int, seed: int) -> None:
    sampler = StepSampler(seed, "subject", slots, images, (1,), 10)
    sampled = [
        sampler.sample(step, slot).image_index for step in range(images) for slot in range(slots)
    ]
    for epoch in range(slots):
        indices = sampled[epoch * images : (epoch + 1) * images]
        assert sorted(indices) == list(range(images))
