"""All schedulers converge to one image, also on a zero-terminal-SNR model."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS
from kosmos_dreambooth.sandbox import DIFFUSION

PROMPTS = ["a red dog in the meadow", "a blue cat at night"]
DETERMINISTIC = [name for name, spec in SCHEDULERS.items() if spec.zero_snr and not spec.stochastic]


@pytest.fixture(scope="module")
def sandbox():
    return load_diffusion(DIFFUSION)


@pytest.fixture(scope="module")
def converged(sandbox):
    """The sandbox, and its images after 60 steps."""
    return sandbox, sample(sandbox, PROMPTS, steps=60, guidance=3.0)


@pytest.mark.parametrize("scheduler", DETERMINISTIC)
def test_twenty_steps_come_close_to_the_converged_image(converged, scheduler):
    sandbox, images = converged
    quick = sample(sandbox, PROMPTS, steps=20, guidance=3.0, scheduler=scheduler)
    assert (quick - images).abs().mean() < 0.04
    assert (quick[0] - quick[1]).abs().mean() > 0.1


@pytest.mark.parametrize("steps", [1, 2, 25, 33])
@pytest.mark.parametrize("scheduler", [name for name, spec in SCHEDULERS.items() if spec.zero_snr])
def test_any_number_of_steps_gives_an_image(sandbox, scheduler, steps):
    [image] = sample(sandbox, PROMPTS[:1], steps=steps, guidance=1.0, scheduler=scheduler)
    assert image.isfinite().all()
    assert image.std() > 0.02
