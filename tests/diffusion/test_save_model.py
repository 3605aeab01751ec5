"""A saved folder is read back as the same model, here and by diffusers, or does not exist."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import pytest
import torch
from kosmos_dreambooth.diffusion.fingerprint import fingerprint
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.save_model import save_folder
from kosmos_dreambooth.shared.errors import UserError
from safetensors.torch import load_file, save_file


def test_a_saved_folder_generates_the_same_images(velocity_diffusion, tmp_path):
    save_folder(velocity_diffusion, tmp_path / "a" / "copy")
    again = load_diffusion(tmp_path / "a" / "copy")
    prompts = ["a red dog"]
    images = [sample(m, prompts, steps=3) for m in (again, velocity_diffusion)]
    assert torch.allclose(*images, atol=1e-5)  # up to 1e-6 on an Intel CPU
    assert again.scheduler_config["prediction_type"] == "v_prediction"
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "a" / "copy")
    assert pipeline.unet.config.cross_attention_dim == 32


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_a_saved_folder_keeps_what_its_scheduler_leaves_open(diffusion, tmp_path, scheduler):
    config = {k: v for k, v in diffusion.scheduler_config.items() if k != "timestep_spacing"}
    model = replace(diffusion, scheduler_config=config)
    save_folder(model, tmp_path / "copy")
    again = load_diffusion(tmp_path / "copy")
    assert again.scheduler_config == config
    images = [sample(m, ["a red dog"], steps=3, scheduler=scheduler) for m in (model, again)]
    assert torch.allclose(*images, atol=1e-5)  # up to 1e-6 on an Intel CPU


def test_a_saved_xl_folder_is_the_same_model(xl_diffusion, tmp_path):
    save_folder(xl_diffusion, tmp_path / "copy")
    again = load_diffusion(tmp_path / "copy")
    prompts = ["a red dog"]
    images = [sample(m, prompts, steps=3) for m in (again, xl_diffusion)]
    assert torch.allclose(*images, atol=1e-5)  # up to 1e-6 on an Intel CPU
    before = fingerprint(again)
    assert fingerprint(load_diffusion(zero_a_weight(tmp_path / "copy"))) != before


def zero_a_weight(folder):
    file = folder / "text_encoder_2" / "model.safetensors"
    weights = load_file(file)
    weights["text_projection.weight"].zero_()
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_a_full_disk_leaves_nothing_behind(diffusion, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="free disk space"):
            save_folder(diffusion, tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
