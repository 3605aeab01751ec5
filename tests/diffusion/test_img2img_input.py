"""Image-to-image and inpainting give the same latents as diffusers' pipelines."""

from __future__ import annotations

import diffusers
import pytest
import torch
from kosmos_dreambooth.diffusion.sample.img2img_input import Img2ImgInput
from kosmos_dreambooth.diffusion.sample.sample_images import sample_batches
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS, make_scheduler
from kosmos_dreambooth.shared.errors import UserError

PROMPTS = ["a red dog in the meadow", "a blue cat"]
SEEDS = [7, 8]
IMAGES = torch.rand((2, 32, 32, 3), generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(2, 32, 32)
MASK[0, 8:24, 4:20] = 1
MASK[1, :, 16:] = 1


def run(model, img2img, scheduler="ddim", steps=5, guidance=4.0, **options):
    settings = SampleSettings("snow", steps, guidance, scheduler)
    [batch] = sample_batches(model, PROMPTS, SEEDS, settings, img2img=img2img, **options)
    return batch


def reference_latents(model, pipeline, scheduler, img2img, steps=5):
    inputs = {"image": img2img.images.permute(0, 3, 1, 2)}
    if img2img.mask is not None:
        inputs["mask_image"] = img2img.mask[:, None]
        inputs |= {"height": 32, "width": 32}
    reference = pipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=make_scheduler(scheduler, model.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    return reference(
        PROMPTS,
        negative_prompt=["snow"] * 2,
        num_inference_steps=steps,
        guidance_scale=4.0,
        strength=img2img.strength,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
        **inputs,
    ).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_image_to_image_equals_diffusers_pipeline(diffusion, scheduler):
    img2img = Img2ImgInput(IMAGES, strength=0.6)
    theirs = reference_latents(
        diffusion, diffusers.StableDiffusionImg2ImgPipeline, scheduler, img2img
    )
    assert (run(diffusion, img2img, scheduler).latents - theirs).abs().max() <= 1e-4


# Stochastic schedulers draw other noise there: that pipeline also encodes the masked image, which
# only UNets with nine input channels use.
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize(
    "scheduler", [name for name, spec in SCHEDULERS.items() if not spec.stochastic]
)
def test_inpainting_equals_diffusers_pipeline(diffusion, scheduler, strength):
    img2img = Img2ImgInput(IMAGES, MASK, strength)
    theirs = reference_latents(
        diffusion, diffusers.StableDiffusionInpaintPipeline, scheduler, img2img
    )
    assert (run(diffusion, img2img, scheduler).latents - theirs).abs().max() <= 1e-4


def test_velocity_models_equal_diffusers_pipeline(velocity_diffusion):
    img2img = Img2ImgInput(IMAGES, MASK, 0.6)
    theirs = reference_latents(
        velocity_diffusion, diffusers.StableDiffusionInpaintPipeline, "ddim", img2img
    )
    assert (run(velocity_diffusion, img2img).latents - theirs).abs().max() <= 1e-4


def test_pixels_outside_the_mask_are_unchanged(diffusion):
    images = run(diffusion, Img2ImgInput(IMAGES, MASK, 1.0)).images
    covered = MASK.bool()
    assert torch.equal(images[~covered], IMAGES[~covered])
    assert (images - IMAGES)[covered].abs().mean() > 0.05


def test_an_image_does_not_depend_on_its_batch(diffusion):
    img2img = Img2ImgInput(IMAGES, MASK, 0.6)
    together = run(diffusion, img2img, "euler_a").images
    settings = SampleSettings("snow", 5, 4.0, "euler_a")
    alone = [
        part.images
        for part in sample_batches(
            diffusion, PROMPTS, SEEDS, settings, img2img=img2img, batch_size=1
        )
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_low_strength_stays_near_the_start_image_and_skips_steps(diffusion):
    calls = []
    hook = diffusion.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        low = run(diffusion, Img2ImgInput(IMAGES, strength=0.2), steps=10).latents
        assert len(calls) == 2
        high = run(diffusion, Img2ImgInput(IMAGES, strength=1.0), steps=10).latents
        assert len(calls) == 2 + 10
    finally:
        hook.remove()
    with torch.no_grad():
        pixels = IMAGES.permute(0, 3, 1, 2) * 2 - 1
        start = diffusion.vae.encode(pixels).latent_dist.mean * diffusion.vae.config.scaling_factor
    assert (low - start).abs().mean() < (high - start).abs().mean() / 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strength": 0.0}, "Denoise is 0.0: choose more than 0"),
        ({"strength": 1.5}, "Denoise is 1.5"),
        ({"strength": 0.05}, "Denoise 0.05 of 5 steps leaves no step"),
        ({"mask": MASK[:, :16]}, "mask has the size 32x16 and the image 32x32"),
        ({"images": IMAGES[:, :31]}, "32x31 pixels, but tiny generates multiples of 2.*32x30"),
        ({"images": IMAGES * float("nan")}, "image contains NaN or infinite values"),
        ({"mask": MASK * float("nan")}, "mask contains NaN or infinite values"),
    ],
)
def test_an_invalid_input_is_named(diffusion, change, sentence):
    with pytest.raises(UserError, match=sentence):
        run(diffusion, Img2ImgInput(**{"images": IMAGES, **change}))


def test_a_size_other_than_the_start_images_is_named(diffusion):
    with pytest.raises(UserError, match="set both to 0"):
        list(
            sample_batches(
                diffusion, PROMPTS, SEEDS, SampleSettings(width=64), img2img=Img2ImgInput(IMAGES)
            )
        )
