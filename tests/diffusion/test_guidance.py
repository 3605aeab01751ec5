"""Guidance options: forward passes saved, and equality with diffusers where it has the same."""

from __future__ import annotations

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.diffusion.sample.guidance import SCHEDULES, GuidanceOptions
from kosmos_dreambooth.diffusion.sample.sample_images import sample_batches
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.sample.schedulers import make_scheduler
from kosmos_dreambooth.shared.errors import UserError

STEPS = 10
progress = st.floats(0, 1)


def latents(model, options, scheduler="ddim", guidance=6.0):
    settings = SampleSettings("snow", STEPS, guidance, scheduler)
    [batch] = sample_batches(model, ["a red dog"], [3], settings, options=options)
    return batch.latents


@pytest.fixture
def passes(diffusion):
    """The batch of each forward pass: 2 with guidance, 1 without."""
    sizes = []
    hook = diffusion.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    hook.remove()


def test_rescale_equals_diffusers_pipeline(diffusion):
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusion.vae,
        text_encoder=diffusion.text_encoder,
        tokenizer=diffusion.tokenizer,
        unet=diffusion.unet,
        scheduler=make_scheduler("ddim", diffusion.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red dog",
        negative_prompt="snow",
        num_inference_steps=STEPS,
        guidance_scale=6.0,
        guidance_rescale=0.7,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    ours = latents(diffusion, GuidanceOptions(rescale=0.7))
    assert (ours - theirs).abs().max() <= 1e-4
    assert (ours - latents(diffusion, GuidanceOptions())).abs().max() > 1e-3


def test_outside_the_interval_the_second_prediction_is_not_computed(diffusion, passes):
    latents(diffusion, GuidanceOptions(start=0.25, end=0.65))
    assert passes == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]


def test_an_increasing_schedule_needs_no_negative_prediction_at_pure_noise(velocity_diffusion):
    sizes = []
    hook = velocity_diffusion.unet.register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    try:
        latents(velocity_diffusion, GuidanceOptions(schedule="linear"))
    finally:
        hook.remove()
    assert sizes == [1] + [2] * 9


def test_zero_init_steps_do_not_run_the_model(diffusion, passes):
    latents(diffusion, GuidanceOptions(zero_init_steps=3))
    assert len(passes) == STEPS - 3


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_zero_velocity_scales_noise_by_the_cosine_of_the_step_angle(diffusion, scheduler):
    """With v = 0, DDIM takes x to cos(angle) x (Salimans and Ho 2022, appendix D)."""
    result = latents(diffusion, GuidanceOptions(zero_init_steps=STEPS), scheduler)
    reference = make_scheduler("ddim", diffusion.scheduler_config)
    reference.set_timesteps(STEPS)
    angles = reference.alphas_cumprod[reference.timesteps].sqrt().arccos()
    steps = angles - torch.cat([angles[1:], reference.final_alpha_cumprod.sqrt().arccos()[None]])
    noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
    expected = noise * steps.cos().prod()
    assert (result - expected).abs().max() < (1e-4 if scheduler == "ddim" else 0.15)


@given(st.floats(1, 30), progress, progress, progress, st.sampled_from(sorted(SCHEDULES)))
def test_the_scale_is_one_outside_the_interval_and_never_below(guidance, a, b, moment, schedule):
    options = GuidanceOptions(start=min(a, b), end=max(a, b), schedule=schedule)
    scale = options.scale_at(guidance, moment)
    assert 1 <= scale <= 2 * guidance
    if not options.start <= moment <= options.end:
        assert scale == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_has_the_mean_of_a_constant_one(schedule):
    options = GuidanceOptions(schedule=schedule)
    scales = [options.scale_at(7.0, i / 1000) for i in range(1001)]
    assert sum(scales) / len(scales) == pytest.approx(7.0)


@given(st.integers(0, 100), st.floats(1, 20))
def test_full_rescale_restores_the_prompted_standard_deviation(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    negative, prompted = torch.randn((2, 3, 4, 8, 8), generator=generator)
    guided = GuidanceOptions(rescale=1.0).combine(negative, prompted, scale)
    assert torch.allclose(guided.std((1, 2, 3)), prompted.std((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"rescale": 1.5}, "Rescale is 1.5: choose 0"),
        ({"rescale": float("nan")}, "Rescale is nan"),
        ({"start": 0.6, "end": 0.4}, "interval is 0.6 to 0.4"),
        ({"end": 1.2}, "interval is 0.0 to 1.2"),
        ({"schedule": "magic"}, 'Schedule is "magic": choose one of constant'),
        ({"zero_init_steps": -1}, "Zero-init steps is -1"),
    ],
)
def test_an_option_out_of_range_is_named(choice, sentence):
    with pytest.raises(UserError, match=sentence):
        GuidanceOptions(**choice)
