"""Sampling on a pretend GPU: no mixed devices, no mixed dtypes, the same images."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.sample.guidance import GuidanceOptions
from kosmos_dreambooth.diffusion.sample.img2img_input import Img2ImgInput
from kosmos_dreambooth.diffusion.sample.sample_images import sample_batches
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS
from kosmos_dreambooth.shared.errors import UserError

from ..pretend_gpu import DEVICE, pretend_gpu

PROMPTS = ["a red dog", "a blue cat"]


def on_device(diffusion: Diffusion, dtype: torch.dtype = torch.float32) -> Diffusion:
    """A copy of a model on the pretend GPU."""
    parts = {
        name: copy.deepcopy(part).to(DEVICE, dtype) for name, part in diffusion.modules.items()
    }
    return replace(diffusion, **parts)


def images_of(diffusion: Diffusion, scheduler: str = "ddim", **options: object) -> torch.Tensor:
    settings = SampleSettings(steps=3, guidance=3.0, scheduler=scheduler, negative="a cat")
    batches = sample_batches(diffusion, PROMPTS, [1, 2], settings, **options)
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_gives_the_same_images_on_a_gpu(scheduler: str, diffusion: Diffusion) -> None:
    expected = images_of(diffusion, scheduler)
    with pretend_gpu():
        images = images_of(on_device(diffusion), scheduler, on_step=lambda *_: None)
    assert type(images) is torch.Tensor
    torch.testing.assert_close(images, expected)


def test_xl_and_guidance_options_run_in_bf16_on_a_gpu(xl_diffusion: Diffusion) -> None:
    options = GuidanceOptions(rescale=0.7, start=0.2, schedule="cosine", zero_init_steps=1)
    with pretend_gpu():
        images_of(on_device(xl_diffusion, torch.bfloat16), options=options)


def test_inpainting_runs_in_fp16_on_a_gpu(diffusion: Diffusion) -> None:
    start = torch.rand(2, 32, 32, 3)
    mask = torch.zeros(2, 32, 32)
    mask[:, 8:20] = 1
    with pretend_gpu():
        images = images_of(
            on_device(diffusion, torch.float16), img2img=Img2ImgInput(start, mask, 0.8)
        )
    torch.testing.assert_close(images[:, 20:], start[:, 20:])


def test_batches_are_halved_until_they_fit_the_memory(diffusion: Diffusion) -> None:
    expected = images_of(diffusion)
    with pretend_gpu() as gpu:
        model = on_device(diffusion)
        weights = gpu.used()
        images_of(model, batch_size=1)
        single = gpu.peak
    with pretend_gpu(single + (single - weights) // 4):
        images = images_of(on_device(diffusion), batch_size=2)
    torch.testing.assert_close(images, expected)
    with pretend_gpu(weights + (single - weights) // 2):
        model = on_device(diffusion)
        with pytest.raises(UserError, match="smaller width and height"):
            images_of(model)
