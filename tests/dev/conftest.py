"""Images of the sandbox's scenes as the files of tiny data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.sandbox.scene_pool import Sample, draw_samples
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image

SIDE = 112


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Two drawn scenes with the true boxes of their things."""
    return draw_samples(HELD_OUT, 2, SIDE)


@pytest.fixture
def save_images(samples: list[Sample], tmp_path: Path):
    """Writes the scenes into a folder below `tmp_path` by these names, and returns the folder."""

    def save(folder: str, *names: str) -> Path:
        for name, sample in zip(names, samples, strict=True):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.pixels).save(file)
        return tmp_path / folder

    return save
