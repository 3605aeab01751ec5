"""A painter outside PyTorch paints what it painted inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kosmos_dreambooth.diffusion.diffusion_model import Diffusion
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.diffusion.sample.images import sample
from kosmos_dreambooth.diffusion.sample.schedulers import FLOW_PREDICTION, make_scheduler
from kosmos_dreambooth.export.export_diffusion import export_diffusion, runtime_settings
from kosmos_dreambooth.export.tolerance import TOLERANCES
from kosmos_dreambooth.shared.errors import UserError
from PIL import Image

from tests.diffusion.conftest import EPSILON, write_model


@pytest.fixture(params=["", "XL"])
def either(
    request: pytest.FixtureRequest, painter: Diffusion, tmp_path_factory: pytest.TempPathFactory
) -> Diffusion:
    """A painter with one text encoder, and one with two."""
    if not request.param:
        return painter
    folder = write_model(tmp_path_factory.mktemp("models") / "xl", EPSILON, xl=True)
    return load_diffusion(folder)


def test_the_program_in_the_readme_paints_the_same_picture(
    either: Diffusion,
    scenes: torch.Tensor,
    run_readme: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = scenes[:2] if either.text_encoder_2 is None else scenes[:2, ..., :1]  # grey is fine
    manifest = export_diffusion(either, tmp_path / "made", "onnx", "fp32", seen)
    assert len(manifest.parts) == (4 if either.text_encoder_2 is None else 5)
    assert max(part["difference"] for part in manifest.parts) <= TOLERANCES["fp32"]
    noise = torch.Generator().manual_seed(0)
    ours = SimpleNamespace(standard_normal=lambda n, kind: torch.randn(n, generator=noise).numpy())
    monkeypatch.setattr("numpy.random.default_rng", lambda seed: ours)
    run_readme(tmp_path / "made", "a dog", str(tmp_path / "dog.png"))
    painted = np.asarray(Image.open(tmp_path / "dog.png"), dtype=np.float32) / 255
    expected = sample(either, ["a dog"], steps=20, guidance=4.0)[0].numpy()
    assert np.abs(painted - expected).max() < 1.5 / 255


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", FLOW_PREDICTION])
def test_the_schedule_in_an_export_makes_the_steps_of_ddim(
    painter: Diffusion, prediction: str
) -> None:
    config = {**painter.scheduler_config, "prediction_type": prediction}
    if prediction == "epsilon":  # which says nothing of pure noise
        config["rescale_betas_zero_snr"] = False
    scheduler = make_scheduler("ddim", config)
    scheduler.set_timesteps(20)
    wanted = made = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = runtime_settings(dataclasses.replace(painter, scheduler_config=config))["schedule"]
    for timestep, (told, keep, add) in zip(scheduler.timesteps, schedule, strict=True):
        assert told == timestep
        wanted = scheduler.step(wanted.sin(), timestep, wanted).prev_sample
        made = keep * made + add * made.sin()
    assert torch.allclose(made, wanted, atol=1e-4)


def test_what_is_not_exported_is_one_sentence(
    painter: Diffusion, scenes: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="choose the format onnx"):
        export_diffusion(painter, tmp_path / "made", "litert", "fp32", scenes)
    assert not list(tmp_path.iterdir())
