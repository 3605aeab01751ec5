"""Painting over pictures gives what diffusers' image-to-image and inpainting pipelines give."""

from __future__ import annotations

import diffusers
import pytest
import torch
from kosmos_dreambooth.diffusion.sample.images import sample_batches
from kosmos_dreambooth.diffusion.sample.img2img_input import Img2ImgInput
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS, make_scheduler
from kosmos_dreambooth.shared.errors import UserError

PROMPTS = ["a red dog in the meadow", "a blue cat"]
SEEDS = [7, 8]
PICTURES = torch.rand((2, 32, 32, 3), generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(2, 32, 32)
MASK[0, 8:24, 4:20] = 1
MASK[1, :, 16:] = 1


def run(model, canvas, scheduler="ddim", steps=5, guidance=4.0, **rest):
    settings = SampleSettings("snow", steps, guidance, scheduler)
    [painted] = sample_batches(model, PROMPTS, SEEDS, settings, canvas=canvas, **rest)
    return painted


def reference_latents(model, pipeline, scheduler, canvas, steps=5):
    inputs = {"image": canvas.pictures.permute(0, 3, 1, 2)}
    if canvas.mask is not None:
        inputs["mask_image"] = canvas.mask[:, None]
        inputs |= {"height": 32, "width": 32}
    made = pipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=make_scheduler(scheduler, model.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made(
        PROMPTS,
        negative_prompt=["snow"] * 2,
        num_inference_steps=steps,
        guidance_scale=4.0,
        strength=canvas.strength,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
        **inputs,
    ).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_image_to_image_equals_diffusers_pipeline(diffusion, scheduler):
    canvas = Img2ImgInput(PICTURES, strength=0.6)
    theirs = reference_latents(
        diffusion, diffusers.StableDiffusionImg2ImgPipeline, scheduler, canvas
    )
    assert (run(diffusion, canvas, scheduler).latents - theirs).abs().max() <= 1e-4


# The noisy ones draw other noise there: that pipeline encodes the masked picture as well, which
# only UNets with nine channels look at.
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("scheduler", [key for key, one in SCHEDULERS.items() if not one.noisy])
def test_inpainting_equals_diffusers_pipeline(diffusion, scheduler, strength):
    canvas = Img2ImgInput(PICTURES, MASK, strength)
    theirs = reference_latents(
        diffusion, diffusers.StableDiffusionInpaintPipeline, scheduler, canvas
    )
    assert (run(diffusion, canvas, scheduler).latents - theirs).abs().max() <= 1e-4


def test_velocity_models_equal_diffusers_pipeline(velocity_diffusion):
    canvas = Img2ImgInput(PICTURES, MASK, 0.6)
    theirs = reference_latents(
        velocity_diffusion, diffusers.StableDiffusionInpaintPipeline, "ddim", canvas
    )
    assert (run(velocity_diffusion, canvas).latents - theirs).abs().max() <= 1e-4


def test_what_a_mask_does_not_cover_stays_pixel_for_pixel(diffusion):
    pictures = run(diffusion, Img2ImgInput(PICTURES, MASK, 1.0)).pictures
    covered = MASK.bool()
    assert torch.equal(pictures[~covered], PICTURES[~covered])
    assert (pictures - PICTURES)[covered].abs().mean() > 0.05


def test_a_picture_does_not_depend_on_its_batch(diffusion):
    canvas = Img2ImgInput(PICTURES, MASK, 0.6)
    together = run(diffusion, canvas, "euler_a").pictures
    settings = SampleSettings("snow", 5, 4.0, "euler_a")
    alone = [
        part.pictures
        for part in sample_batches(diffusion, PROMPTS, SEEDS, settings, canvas=canvas, batch_size=1)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_low_strength_stays_near_the_picture_and_saves_steps(diffusion):
    calls = []
    hook = diffusion.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        low = run(diffusion, Img2ImgInput(PICTURES, strength=0.2), steps=10).latents
        assert len(calls) == 2
        high = run(diffusion, Img2ImgInput(PICTURES, strength=1.0), steps=10).latents
        assert len(calls) == 2 + 10
    finally:
        hook.remove()
    with torch.no_grad():
        pixels = PICTURES.permute(0, 3, 1, 2) * 2 - 1
        start = diffusion.vae.encode(pixels).latent_dist.mean * diffusion.vae.config.scaling_factor
    assert (low - start).abs().mean() < (high - start).abs().mean() / 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strength": 0.0}, "Denoise is 0.0: choose more than 0"),
        ({"strength": 1.5}, "Denoise is 1.5"),
        ({"strength": 0.05}, "Denoise 0.05 of 5 steps leaves no step"),
        ({"mask": MASK[:, :16]}, "mask has the size 32x16 and the image 32x32"),
        ({"pictures": PICTURES[:, :31]}, "32x31 pixels, but tiny paints multiples of 2.*32x30"),
        ({"pictures": PICTURES * float("nan")}, "image holds values that are not numbers"),
        ({"mask": MASK * float("nan")}, "mask holds values that are not numbers"),
    ],
)
def test_an_impossible_canvas_is_named(diffusion, change, sentence):
    with pytest.raises(UserError, match=sentence):
        run(diffusion, Img2ImgInput(**{"pictures": PICTURES, **change}))


def test_another_size_beside_a_picture_is_named(diffusion):
    with pytest.raises(UserError, match="set both to 0"):
        list(
            sample_batches(
                diffusion, PROMPTS, SEEDS, SampleSettings(width=64), canvas=Img2ImgInput(PICTURES)
            )
        )
