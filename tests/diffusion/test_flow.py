"""Flow matching models can be sampled and saved as a folder; other uses are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.latent_preview import pred_original_sample
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.sample.schedulers import FLOW_SCHEDULERS, is_flow, make_scheduler
from kosmos_dreambooth.diffusion.save_model import save_checkpoint, save_folder
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.tests.diffusion.conftest import write_model

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}


@pytest.fixture(scope="module")
def flow_model(tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    return load_diffusion(write_model(tmp_path_factory.mktemp("models") / "flow", FLOW))


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_a_perfect_prediction_leads_to_the_original(flow_model: Diffusion, name: str) -> None:
    scheduler = make_scheduler(name, flow_model.scheduler_config)
    scheduler.set_timesteps(7)
    original, noise = torch.randn(2, 1, 4, 8, 8).unbind(0)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        sigma = float(timestep) / 1000
        velocity = (latents - original) / sigma
        predicted = pred_original_sample(scheduler, latents, velocity, timestep)
        torch.testing.assert_close(predicted, original, atol=1e-3, rtol=1e-3)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    torch.testing.assert_close(latents, original, atol=0.02, rtol=0)  # timesteps are rounded


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_it_can_be_sampled(flow_model: Diffusion, name: str) -> None:
    previews = []
    images = sample(
        flow_model,
        ["a dog"],
        steps=3,
        guidance=2.0,
        scheduler=name,
        on_step=lambda done, total, preview: previews.append(preview),
    )
    assert images.shape == (1, 32, 32, 3)
    assert images.isfinite().all()
    assert len(previews) == 3


def test_unsupported_uses_are_named(flow_model: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of ddim, euler"):
        sample(flow_model, ["a dog"], steps=2, scheduler="plms")
    with pytest.raises(UserError, match="is a flow matching model"):
        save_checkpoint(flow_model, tmp_path / "flow.safetensors")


def test_a_saved_folder_keeps_the_prediction_type(flow_model: Diffusion, tmp_path: Path) -> None:
    save_folder(flow_model, tmp_path / "flow")
    again = load_diffusion(tmp_path / "flow")
    assert is_flow(again.scheduler_config)
    assert again.scheduler_config["shift"] == 2.0
