"""UNets with 9 input channels sample as diffusers' inpainting pipelines do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.img2img_input import Img2ImgInput
from kosmos_dreambooth.diffusion.sample.sample_images import sample, sample_batches
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.diffusion.save_model import make_pipeline, save_folder

from .conftest import EPSILON, write_model

PROMPTS = ["a red dog in the meadow", "a blue cat"]


@pytest.fixture(scope="module", params=[False, True], ids=["sd", "xl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    folder = tmp_path_factory.mktemp("models") / "inpainting"
    write_model(folder, EPSILON, xl=request.param, inpainting=True)
    return load_diffusion(folder)


@pytest.mark.parametrize(("strength", "scheduler"), [(1.0, "ddim"), (0.6, "ddim"), (1.0, "euler")])
def test_images_equal_diffusers_inpainting_pipeline(
    model: Diffusion, strength: float, scheduler: str
) -> None:
    torch.manual_seed(0)
    images, mask = torch.rand(2, 32, 48, 3), torch.zeros(2, 32, 48)
    mask[:, 5:21, 9:30] = 0.8
    mask[:, 25:, 40:] = 0.3
    settings = SampleSettings("snow", 6, 4.0, scheduler)
    [batch] = sample_batches(
        model,
        PROMPTS,
        [7, 8],
        settings,
        img2img=Img2ImgInput(images, mask, strength),
        batch_size=2,
    )
    pipeline = make_pipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler == "euler":
        import diffusers

        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(model.scheduler_config)
    theirs = pipeline(
        PROMPTS,
        negative_prompt=["snow"] * 2,
        image=images.permute(0, 3, 1, 2),
        mask_image=mask[:, None],
        height=32,
        width=48,
        strength=strength,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
        output_type="latent",
    ).images
    assert (batch.latents - theirs).abs().max() <= 1e-3 * theirs.abs().max()
    kept = mask == 0
    assert torch.equal(batch.images[kept], images[kept])


def test_without_image_everything_is_generated(model: Diffusion) -> None:
    pictures = sample(model, ["a dog", "a cat"], steps=2, guidance=3.0)
    assert pictures.shape == (2, 32, 32, 3)
    assert torch.allclose(
        pictures[1:], sample(model, ["a cat"], steps=2, guidance=3.0, seed=1), atol=1e-5
    )


def test_a_saved_inpainting_model_is_one(model: Diffusion, tmp_path: Path) -> None:
    save_folder(model, tmp_path / "copy")
    index = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert index["_class_name"].endswith("InpaintPipeline")
    again = load_diffusion(tmp_path / "copy")
    assert again.is_inpainting_model
    images = [sample(m, ["a dog"], steps=2) for m in (again, model)]
    assert torch.allclose(*images, atol=1e-5)  # up to 1e-6 on an Intel CPU
