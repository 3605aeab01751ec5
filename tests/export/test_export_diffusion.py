"""An exported Stable Diffusion generates the same images."""

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
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.sample.schedulers import FLOW_PREDICTION, make_scheduler
from kosmos_dreambooth.export.export_diffusion import export_diffusion, runtime_settings
from kosmos_dreambooth.export.tolerance import TOLERANCES
from kosmos_dreambooth.shared.errors import UserError
from PIL import Image

from tests.diffusion.conftest import EPSILON, write_model


@pytest.fixture(params=["", "XL"])
def either(
    request: pytest.FixtureRequest,
    small_diffusion: Diffusion,
    tmp_path_factory: pytest.TempPathFactory,
) -> Diffusion:
    """A model with one text encoder, and one with two."""
    if not request.param:
        return small_diffusion
    folder = write_model(tmp_path_factory.mktemp("models") / "xl", EPSILON, xl=True)
    return load_diffusion(folder)


def test_the_readme_program_generates_the_same_image(
    either: Diffusion,
    scenes: torch.Tensor,
    run_readme: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = scenes[:2] if either.text_encoder_2 is None else scenes[:2, ..., :1]  # or greyscale
    manifest = export_diffusion(either, tmp_path / "made", "onnx", "fp32", images)
    assert len(manifest.parts) == (4 if either.text_encoder_2 is None else 5)
    assert max(part["difference"] for part in manifest.parts) <= TOLERANCES["fp32"]
    noise = torch.Generator().manual_seed(0)
    generator = SimpleNamespace(
        standard_normal=lambda shape, dtype: torch.randn(shape, generator=noise).numpy()
    )
    monkeypatch.setattr("numpy.random.default_rng", lambda seed: generator)
    run_readme(tmp_path / "made", "a dog", str(tmp_path / "dog.png"))
    image = np.asarray(Image.open(tmp_path / "dog.png"), dtype=np.float32) / 255
    expected = sample(either, ["a dog"], steps=20, guidance=4.0)[0].numpy()
    assert np.abs(image - expected).max() < 1.5 / 255


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", FLOW_PREDICTION])
def test_the_exported_schedule_equals_ddim(small_diffusion: Diffusion, prediction: str) -> None:
    config = {**small_diffusion.scheduler_config, "prediction_type": prediction}
    if prediction == "epsilon":  # epsilon is undefined for pure noise
        config["rescale_betas_zero_snr"] = False
    scheduler = make_scheduler("ddim", config)
    scheduler.set_timesteps(20)
    expected = latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = runtime_settings(dataclasses.replace(small_diffusion, scheduler_config=config))[
        "schedule"
    ]
    for timestep, (exported_timestep, of_latents, of_prediction) in zip(
        scheduler.timesteps, schedule, strict=True
    ):
        assert exported_timestep == timestep
        expected = scheduler.step(expected.sin(), timestep, expected).prev_sample
        latents = of_latents * latents + of_prediction * latents.sin()
    assert torch.allclose(latents, expected, atol=1e-4)


def test_other_formats_raise_a_user_error(
    small_diffusion: Diffusion, scenes: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="choose the format onnx"):
        export_diffusion(small_diffusion, tmp_path / "made", "litert", "fp32", scenes)
    assert not list(tmp_path.iterdir())
