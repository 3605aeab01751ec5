"""Stable Diffusion XL is trained with both of its text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.diffusion.sample import unet_forward
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.config_yaml import read_as
from kosmos_dreambooth.training.denoiser import diffusers_denoiser
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_results import load_base, load_result
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file

from tests.diffusion.conftest import EPSILON, write_model

PARTS = ("unet", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = write_model(tmp_path_factory.mktemp("models") / "xl", EPSILON, xl=True)
    return {"base": str(folder), "steps": 4, "learning_rate": 0.003, "warmup": 0}


def changed(run) -> dict[str, bool]:
    """Whether each part of the model is another one after the run."""
    config = read_as(TrainingConfig, run.config)
    base, trained = load_base(config, torch.float32), load_result(run, torch.float32)
    return {
        part: any(
            not torch.equal(ours, theirs)
            for ours, theirs in zip(
                getattr(trained, part).parameters(), getattr(base, part).parameters(), strict=True
            )
        )
        for part in PARTS
    }


@pytest.mark.parametrize(
    "options", [{"method": "lora"}, {"method": "lora", "precision": "bf16"}, {"method": "full"}]
)
def test_all_its_parts_are_trained(make_run, xl, tmp_path: Path, options: dict) -> None:
    run = make_run(tmp_path, preview_every=4, **options, **xl)
    stop = StopRequest()
    stop.requested = True
    assert not train(run, stop)
    assert train(run, StopRequest())
    assert changed(run) == dict.fromkeys(PARTS, True)
    assert (run.previews / "00000004.png").exists()
    whole = make_run(tmp_path / "whole", **options, **xl)
    assert train(whole, StopRequest())
    assert loss_curve(run.events) == loss_curve(whole.events)


def test_its_text_encoders_can_be_frozen(make_run, xl, tmp_path: Path) -> None:
    run = make_run(tmp_path, train_text_encoder=False, **xl)
    assert train(run, StopRequest())
    assert not any(key.startswith("lora_te") for key in load_file(run.lora))
    assert changed(run) == {"unet": True, "text_encoder": False, "text_encoder_2": False}


def test_its_time_ids_are_the_image_sizes(make_run, xl, tmp_path: Path, monkeypatch) -> None:
    recorded = []

    def record(unet, latents, timesteps, text, time_ids):
        recorded.append(time_ids)
        return unet_forward.unet_forward(unet, latents, timesteps, text, time_ids)

    monkeypatch.setattr(diffusers_denoiser, "unet_forward", record)
    assert train(make_run(tmp_path, **xl), StopRequest())
    originals = {tuple(int(side) for side in row[:2]) for time_ids in recorded for row in time_ids}
    assert originals == {(16, 16), (20, 31), (64, 17)}


def test_textual_inversion_needs_a_single_text_encoder(make_run, xl, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two text encoders"):
        train(make_run(tmp_path, method="embedding", **xl), StopRequest())
