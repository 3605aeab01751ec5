"""Sampling on a pretend GPU: no mixed devices, no mixed dtypes, the same images."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load import device_parts
from kosmos_dreambooth.diffusion.sample import vae_tiles
from kosmos_dreambooth.diffusion.sample.guidance import GuidanceOptions
from kosmos_dreambooth.diffusion.sample.img2img_input import Img2ImgInput
from kosmos_dreambooth.diffusion.sample.prompt_encoding import _caches
from kosmos_dreambooth.diffusion.sample.sample_images import sample_batches
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.sample.schedulers import SCHEDULERS
from kosmos_dreambooth.shared import stream_weights
from kosmos_dreambooth.shared.errors import UserError

PROMPTS = ["a red dog", "a blue cat"]


def on_device(
    diffusion: Diffusion, dtype: torch.dtype = torch.float32, device: torch.device = DEVICE
) -> Diffusion:
    """A copy of a model, on the pretend GPU by default."""
    parts = {
        name: copy.deepcopy(part).to(device, dtype) for name, part in diffusion.modules.items()
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


def test_parts_travel_apart_and_are_streamed_where_they_do_not_fit(
    xl_diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = images_of(xl_diffusion)
    monkeypatch.setattr(stream_weights, "SMALL_BYTES", 2**10)
    copied = on_device(xl_diffusion, device=torch.device("cpu"))
    unet, *others = (sum(p.nbytes for p in part.parameters()) for part in copied.modules.values())

    def peak(budget: int | None = None) -> int:
        _caches.clear()
        with pretend_gpu(budget) as gpu:
            parts = device_parts.DeviceParts(copied.modules, DEVICE)
            images = images_of(replace(copied, patcher=parts), batch_size=1)
            parts.load_parts()
            assert gpu.used() == 0
        torch.testing.assert_close(images, expected)
        return gpu.peak

    with pretend_gpu() as gpu:
        images_of(on_device(xl_diffusion), batch_size=1)
        together = gpu.peak
    apart = peak()
    assert together - apart > 0.9 * sum(others)
    monkeypatch.setattr(device_parts, "ACTIVATION_BYTES", apart - unet)
    peak(apart - unet // 2)


def test_a_vae_without_memory_computes_in_tiles(
    diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae_tiles, "MIN_TILE", 8)
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), pretend_gpu() as gpu:
        vae = copy.deepcopy(diffusion.vae).to(DEVICE)
        weights = gpu.used()
        expected = vae_tiles.decode(vae, latents.to(DEVICE)).cpu()
        means = vae_tiles.encode(vae, pixels.to(DEVICE)).mean.cpu()
        whole = gpu.peak
    with torch.no_grad(), pretend_gpu(weights + (whole - weights) // 2):
        vae = vae.to("cpu").to(DEVICE)
        tiled = vae_tiles.decode(vae, latents.to(DEVICE)).cpu()
        tiled_means = vae_tiles.encode(vae, pixels.to(DEVICE)).mean.cpu()
    assert not vae.use_tiling
    for result, reference in ((tiled, expected), (tiled_means, means)):
        assert result.shape == reference.shape
        similarity = torch.corrcoef(torch.stack([result.flatten(), reference.flatten()]))[0, 1]
        assert similarity > 0.9
        assert not torch.equal(result, reference)
