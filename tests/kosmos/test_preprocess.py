"""Images are preprocessed as by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.preprocess import preprocess
from PIL import Image
from transformers import CLIPImageProcessor


def photograph(height: int, width: int) -> np.ndarray:
    """A scene with smooth light, hard edges and noise, uint8 [H,W,3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = np.stack([x, y, 1 - x * y], axis=-1) * 200
    light[(x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.05] = (240, 30, 60)
    return (light + rng.normal(0, 12, light.shape)).clip(0, 255).astype(np.uint8)


def as_image(pixels: np.ndarray) -> torch.Tensor:
    """As core's LoadImage hands it on."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]


@pytest.mark.parametrize("size", [(300, 451), (56, 56), (33, 20)])
def test_pixels_equal_those_of_transformers(tiny: Kosmos, size: tuple[int, int]) -> None:
    pixels = photograph(*size)
    side = tiny.model.config.vision_config.image_size
    # As in the preprocessor_config.json of microsoft/kosmos-2-patch14-224: squeezed to a square.
    square = {"height": side, "width": side}
    published = CLIPImageProcessor(size=square, crop_size=square)
    expected = published(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(preprocess(tiny, as_image(pixels)), expected, atol=1e-5, rtol=0)


def test_an_image_of_16_bits_equals_that_of_8_bits(tiny: Kosmos, tmp_path: Path) -> None:
    grey = photograph(40, 60)[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    deep = np.asarray(Image.open(tmp_path / "deep.png")).astype(np.float32) / 65535
    assert torch.equal(
        preprocess(tiny, torch.from_numpy(deep)[None, ..., None]),
        preprocess(tiny, as_image(grey[..., None])),
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 2, 700, 3), (1, 4000, 5000, 1)])
def test_images_of_any_size_are_captioned(tiny: Kosmos, shape: tuple[int, ...]) -> None:
    (grounded,) = caption(tiny, torch.zeros(()).expand(shape))
    assert grounded.caption == "An image of night."
