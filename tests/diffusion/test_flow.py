"""Models that predict a flow: painted with, and refused where nothing follows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.images import sample
from kosmos_dreambooth.diffusion.sample.latent_preview import pred_original_sample
from kosmos_dreambooth.diffusion.sample.schedulers import FLOWS, is_flow, make_scheduler
from kosmos_dreambooth.diffusion.save_model import save_checkpoint, save_folder
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.tests.diffusion.conftest import write_model

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}


@pytest.fixture(scope="module")
def flowing(tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    return load_diffusion(write_model(tmp_path_factory.mktemp("models") / "flow", FLOW))


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_a_perfect_model_is_followed_to_its_picture(flowing: Diffusion, name: str) -> None:
    scheduler = make_scheduler(name, flowing.scheduler_config)
    scheduler.set_timesteps(7)
    picture, noise = torch.randn(2, 1, 4, 8, 8).unbind(0)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        share = float(timestep) / 1000
        velocity = (latents - picture) / share  # leads to the picture from anywhere
        seen = pred_original_sample(scheduler, latents, velocity, timestep)
        torch.testing.assert_close(seen, picture, atol=1e-3, rtol=1e-3)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    torch.testing.assert_close(latents, picture, atol=0.02, rtol=0)  # timesteps are whole numbers


@pytest.mark.parametrize("name", FLOWS)
def test_it_paints(flowing: Diffusion, name: str) -> None:
    shown = []
    pictures = sample(
        flowing,
        ["a dog"],
        steps=3,
        guidance=2.0,
        scheduler=name,
        on_step=lambda done, total, preview: shown.append(preview),
    )
    assert pictures.shape == (1, 32, 32, 3)
    assert pictures.isfinite().all()
    assert len(shown) == 3


def test_what_cannot_follow_a_flow_is_told(flowing: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of ddim, euler"):
        sample(flowing, ["a dog"], steps=2, scheduler="plms")
    with pytest.raises(UserError, match="predicts a flow"):
        save_checkpoint(flowing, tmp_path / "flow.safetensors")


def test_a_folder_says_that_it_is_a_flow(flowing: Diffusion, tmp_path: Path) -> None:
    save_folder(flowing, tmp_path / "flow")
    again = load_diffusion(tmp_path / "flow")
    assert is_flow(again.scheduler_config)
    assert again.scheduler_config["shift"] == 2.0
