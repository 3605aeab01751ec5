"""The preview decodes the predicted original sample."""

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
def test_the_predicted_original_equals_diffusers(scheduler, prediction_type):
    schedule = make_scheduler(scheduler, {**SCHEDULE, "prediction_type": prediction_type})
    schedule.set_timesteps(10)
    timestep = schedule.timesteps[4]
    generator = torch.Generator().manual_seed(0)
    latents, prediction = torch.randn((2, 2, 4, 8, 8), generator=generator)
    scaled = schedule.scale_model_input(latents, timestep)
    ours = latent_preview.pred_original_sample(schedule, scaled, prediction, timestep)
    theirs = schedule.step(prediction, timestep, latents).pred_original_sample
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_large_decoder_is_approximated_by_one_colour_per_latent_pixel(monkeypatch):
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae").requires_grad_(False)
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    image = torch.stack([x, y, 1 - x])[None]
    latents = vae.encode(image * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    monkeypatch.setattr(latent_preview, "MAX_DECODER_PARAMETERS", 0)
    preview = latent_preview.make_previewer(vae)(latents[0])
    decoded = latent_preview.decode_latents(vae, latents)[0]
    colours = torch.nn.functional.adaptive_avg_pool2d(decoded.permute(2, 0, 1), 8).permute(1, 2, 0)
    assert preview.shape == (8, 8, 3)
    assert (preview - colours).abs().mean() < 0.08
