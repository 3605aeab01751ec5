"""Images equal those of diffusers' pipeline, with one forward pass per step, in any batch."""

from __future__ import annotations

import diffusers
import pytest
import torch
from kosmos_dreambooth.diffusion.sample.sample_images import (
    consecutive_seeds,
    sample,
    sample_batches,
)
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS
from kosmos_dreambooth.diffusion.save_model import make_pipeline
from kosmos_dreambooth.shared.errors import UserError

PROMPTS = ["a red dog in the meadow", "a blue cat"]
REFERENCES = {
    "ddim": ("DDIMScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "lcm": ("LCMScheduler", {}),
}


def reference_images(
    model, scheduler: str, guidance: float, steps: int, **size: int
) -> torch.Tensor:
    name, options = REFERENCES[scheduler]
    pipeline = make_pipeline(model)
    pipeline.scheduler = getattr(diffusers, name).from_config(model.scheduler_config, **options)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(7 + i) for i in range(len(PROMPTS))]
    images = pipeline(
        PROMPTS,
        negative_prompt=["snow"] * len(PROMPTS),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        output_type="np",
        **size,
    ).images
    return torch.from_numpy(images)


def check_against_pipeline(model, scheduler: str, guidance: float = 4.0, width: int = 32) -> None:
    settings = {"steps": 7, "guidance": guidance, "scheduler": scheduler, "width": width}
    ours = sample(model, PROMPTS, negative="snow", seed=7, **settings)
    theirs = reference_images(model, **settings)
    assert ours.shape == (2, 32, width, 3)
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("scheduler", REFERENCES)
def test_images_equal_diffusers_pipeline(diffusion, scheduler, guidance):
    check_against_pipeline(diffusion, scheduler, guidance)


@pytest.mark.parametrize("scheduler", [name for name in REFERENCES if name != "plms"])
def test_velocity_models_equal_diffusers_pipeline(velocity_diffusion, scheduler):
    check_against_pipeline(velocity_diffusion, scheduler)


@pytest.mark.parametrize("scheduler", REFERENCES)
def test_xl_equals_diffusers_pipeline(xl_diffusion, scheduler):
    check_against_pipeline(xl_diffusion, scheduler, width=48)


def test_plms_cannot_start_from_pure_noise(velocity_diffusion):
    with pytest.raises(UserError, match="plms cannot start from the pure noise"):
        sample(velocity_diffusion, PROMPTS, steps=2, scheduler="plms")


@pytest.mark.parametrize(("guidance", "batch"), [(1.0, 2), (3.0, 4)])
def test_each_step_is_one_forward_pass(diffusion, guidance, batch):
    sizes = []
    hook = diffusion.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    try:
        sample(diffusion, PROMPTS, steps=3, guidance=guidance)
    finally:
        hook.remove()
    assert sizes == [batch] * 3


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a"])
def test_an_image_does_not_depend_on_its_batch(diffusion, scheduler):
    prompts = ["a dog", "a cat", "a dog in the snow"]
    together = sample(diffusion, prompts, steps=4, seed=11, scheduler=scheduler)
    in_pairs = sample(diffusion, prompts, steps=4, seed=11, scheduler=scheduler, batch_size=2)
    alone = sample(diffusion, prompts[2:], steps=4, seed=13, scheduler=scheduler)
    assert torch.allclose(together, in_pairs, atol=1e-5)
    assert torch.allclose(together[2:], alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_seeds_wrap_around_at_64_bits():
    assert consecutive_seeds(2**64 - 1, 2) == [2**64 - 1, 0]


def test_another_size_than_the_models_own(diffusion):
    image = sample(diffusion, ["a dog"], steps=2, width=46, height=64)
    assert image.shape == (1, 64, 46, 3)
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1


def test_progress_counts_the_steps_of_all_images(diffusion):
    reports = []
    sample(
        diffusion,
        ["a dog"] * 3,
        steps=2,
        batch_size=2,
        on_step=lambda step, total, preview: reports.append((step, total, tuple(preview.shape))),
    )
    assert [entry[:2] for entry in reports] == [(2, 6), (4, 6), (5, 6), (6, 6)]
    assert all(shape == (32, 32, 3) for _, _, shape in reports)


def test_the_last_preview_is_the_image(diffusion):
    previews = []
    image = sample(diffusion, ["a dog"], steps=3, on_step=lambda *step: previews.append(step[2]))
    assert torch.allclose(previews[-1], image[0], atol=1e-2)
    assert not torch.allclose(previews[0], image[0], atol=1e-2)


class StoppedError(Exception):
    pass


def test_the_callback_can_stop_a_run_and_finished_batches_are_kept(diffusion):
    finished = []

    def stop_in_the_second_batch(done, total, preview):
        if done > total / 2:
            raise StoppedError

    run = sample_batches(
        diffusion,
        ["a dog"] * 2,
        [0, 1],
        SampleSettings(steps=2),
        batch_size=1,
        on_step=stop_in_the_second_batch,
    )
    with pytest.raises(StoppedError):
        finished.extend(run)
    assert [part.first for part in finished] == [0]


def test_a_batch_that_does_not_fit_is_halved(diffusion):
    sizes = []

    def small_memory(_, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 4:
            raise torch.OutOfMemoryError("out of memory")

    plain = sample(diffusion, ["a dog"] * 5, steps=1)
    hook = diffusion.unet.register_forward_pre_hook(small_memory)
    try:
        images = sample(diffusion, ["a dog"] * 5, steps=1)
    finally:
        hook.remove()
    assert sizes == [10, 4, 4, 2]
    assert torch.allclose(images, plain, atol=1e-5)


def test_a_single_image_too_large_for_memory_is_named(diffusion):
    def no_memory(*_):
        raise torch.OutOfMemoryError("out of memory")

    hook = diffusion.unet.register_forward_pre_hook(no_memory)
    try:
        with pytest.raises(UserError, match="smaller width and height"):
            sample(diffusion, ["a dog"] * 2, steps=1)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"steps": 0}, "Steps is 0: choose 1 to 1000"),
        ({"steps": 51, "scheduler": "lcm"}, "Steps is 51: choose 1 to 50 for the scheduler lcm"),
        ({"guidance": 0.5}, "Guidance is 0.5: choose 1"),
        ({"guidance": float("nan")}, "Guidance is nan: choose 1"),
        ({"scheduler": "magic"}, 'Scheduler is "magic": choose one of ddim'),
        ({"width": 31}, "Width is 31, but tiny generates multiples of 2 pixels: choose 32"),
        ({"height": -4}, "Height is -4"),
    ],
)
def test_a_setting_out_of_range_is_named(diffusion, choice, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(diffusion, ["a dog"], **choice)


def test_every_scheduler_is_compared_with_diffusers():
    assert set(REFERENCES) == set(SCHEDULERS)


def test_an_empty_prompt_list_is_named(diffusion):
    with pytest.raises(UserError, match="write at least one line"):
        sample(diffusion, [])


def test_prompts_of_any_length_are_sampled_in_one_batch(diffusion):
    long = "a dog " * 7 + "snow"
    prompts = ["a dog", long, "a red cat " * 12]
    together = sample(diffusion, prompts, negative=long, steps=2)
    for k, prompt in enumerate(prompts):
        alone = sample(diffusion, [prompt], negative=long, steps=2, seed=k)
        assert (together[k] - alone[0]).abs().max() < 1e-4
    short = sample(diffusion, ["a dog " * 7], steps=2)
    assert (short - sample(diffusion, [long], steps=2)).abs().max() > 1e-4


def test_images_generated_under_inference_mode_are_ordinary_tensors(diffusion):
    with torch.inference_mode():
        image = sample(diffusion, ["a dog"], steps=1)
    assert not image.is_inference()


def test_nan_images_are_named_with_a_remedy(diffusion):
    def overflow(_, args, output):
        return (output[0] * float("nan"),)

    hook = diffusion.unet.register_forward_hook(overflow)
    try:
        with pytest.raises(UserError, match="dtype fp32 or bf16"):
            sample(diffusion, ["a dog"], steps=1)
    finally:
        hook.remove()
