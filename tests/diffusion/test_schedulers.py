"""Schedulers are ways to one picture, on a model that starts from pure noise too."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.images import sample
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS
from kosmos_dreambooth.sandbox import DIFFUSION

PROMPTS = ["a red dog in the meadow", "a blue cat at night"]
DETERMINISTIC = [name for name, one in SCHEDULERS.items() if one.zero_snr and not one.noisy]


@pytest.fixture(scope="module")
def sandbox():
    return load_diffusion(DIFFUSION)


@pytest.fixture(scope="module")
def settled(sandbox):
    """The sandbox, and its pictures after so many steps that more change nothing."""
    return sandbox, sample(sandbox, PROMPTS, steps=60, guidance=3.0)


@pytest.mark.parametrize("scheduler", DETERMINISTIC)
def test_twenty_steps_come_close_to_the_settled_picture(settled, scheduler):
    sandbox, pictures = settled
    quick = sample(sandbox, PROMPTS, steps=20, guidance=3.0, scheduler=scheduler)
    assert (quick - pictures).abs().mean() < 0.04
    assert (quick[0] - quick[1]).abs().mean() > 0.1


@pytest.mark.parametrize("steps", [1, 2, 25, 33])
@pytest.mark.parametrize("scheduler", [name for name, one in SCHEDULERS.items() if one.zero_snr])
def test_any_number_of_steps_ends_in_a_picture(sandbox, scheduler, steps):
    [picture] = sample(sandbox, PROMPTS[:1], steps=steps, guidance=1.0, scheduler=scheduler)
    assert picture.isfinite().all()
    assert picture.std() > 0.02
