"""A painter outside PyTorch paints what it painted inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kosmos_dreambooth.diffusion.model import Diffusion
from kosmos_dreambooth.diffusion.sample import sample
from kosmos_dreambooth.errors import MendableError
from kosmos_dreambooth.export.painter_export import export_painter
from kosmos_dreambooth.export.precision import LIMITS
from PIL import Image


def test_the_program_in_the_readme_paints_the_same_picture(
    painter: Diffusion, scenes: torch.Tensor, run_readme: Callable[..., None], tmp_path: Path
) -> None:
    manifest = export_painter(painter, tmp_path / "made", "onnx", "fp32", scenes[:2])
    assert max(part["difference"] for part in manifest.parts) <= LIMITS["fp32"]
    run_readme(tmp_path / "made", "a dog", str(tmp_path / "dog.png"))
    painted = np.asarray(Image.open(tmp_path / "dog.png"), dtype=np.float32) / 255
    expected = sample(painter, ["a dog"], steps=20, guidance=4.0)[0].numpy()
    assert np.abs(painted - expected).max() < 1.5 / 255


@pytest.mark.parametrize(
    ("changes", "format_", "sentence"),
    [
        ({}, "litert", "choose the format onnx"),
        ({"text_encoder_2": torch.nn.Linear(1, 1)}, "onnx", "is a Stable Diffusion XL"),
    ],
)
def test_what_is_not_exported_is_one_sentence(
    painter: Diffusion,
    scenes: torch.Tensor,
    tmp_path: Path,
    changes: dict[str, object],
    format_: str,
    sentence: str,
) -> None:
    model = dataclasses.replace(painter, **changes)
    with pytest.raises(MendableError, match=sentence):
        export_painter(model, tmp_path / "made", format_, "fp32", scenes)
    assert not list(tmp_path.iterdir())
