"""A preview shows the picture that the model has in mind."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from kosmos_dreambooth.diffusion.sample import latent_preview
from kosmos_dreambooth.diffusion.sample.schedulers import make_scheduler
from kosmos_dreambooth.sandbox import DIFFUSION

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    ("scheduler", "prediction_type"),
    [
        ("ddim", "epsilon"),
        ("ddim", "v_prediction"),
        ("ddim", "sample"),
        ("euler", "epsilon"),
        ("euler", "v_prediction"),
        ("euler_a", "v_prediction"),
    ],
)
def test_the_predicted_original_is_that_of_diffusers(scheduler, prediction_type):
    schedule = make_scheduler(scheduler, {**SCHEDULE, "prediction_type": prediction_type})
    schedule.set_timesteps(10)
    timestep = schedule.timesteps[4]
    generator = torch.Generator().manual_seed(0)
    latents, prediction = torch.randn((2, 2, 4, 8, 8), generator=generator)
    scaled = schedule.scale_model_input(latents, timestep)
    ours = latent_preview.pred_original_sample(schedule, scaled, prediction, timestep)
    theirs = schedule.step(prediction, timestep, latents).pred_original_sample
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_large_decoder_is_replaced_by_the_colours_of_its_cells(monkeypatch):
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae").requires_grad_(False)
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    picture = torch.stack([x, y, 1 - x])[None]
    latents = vae.encode(picture * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    monkeypatch.setattr(latent_preview, "SMALL_DECODER", 0)
    quick = latent_preview.previewer(vae)(latents[0])
    decoded = latent_preview.decode(vae, latents)[0]
    colours = torch.nn.functional.adaptive_avg_pool2d(decoded.permute(2, 0, 1), 8).permute(1, 2, 0)
    assert quick.shape == (8, 8, 3)
    assert (quick - colours).abs().mean() < 0.08
