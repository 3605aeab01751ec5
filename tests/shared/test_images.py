"""Images between float tensors, uint8 arrays and Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.images import (
    check_images,
    read_rgb,
    to_batch,
    to_pil,
    to_rgb,
    to_tensor,
    to_uint8,
)
from PIL import Image


def test_alpha_is_composited_on_white_and_grey_becomes_rgb() -> None:
    rgba = torch.tensor([[1.0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0.5]]).view(1, 1, 3, 4)
    assert to_rgb(rgba)[0, 0].tolist() == [[255, 0, 0], [255, 255, 255], [128, 128, 128]]
    assert to_rgb(torch.full((1, 1, 1, 1), 0.2))[0, 0].tolist() == [[51, 51, 51]]


def test_values_out_of_range_are_clamped_and_nan_becomes_0() -> None:
    values = torch.tensor([float("nan"), float("inf"), -3.0])
    assert to_uint8(values).tolist() == [0, 255, 0]
    assert to_rgb(values.view(1, 1, 1, 3)).flatten().tolist() == [0, 255, 0]


def test_every_uint8_value_survives_the_round_trip(tmp_path: Path) -> None:
    pixels = np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)
    image = to_tensor(pixels)
    assert torch.equal(to_batch([pixels, to_pil(image)]), torch.stack([image, image]))
    to_pil(image).save(tmp_path / "image.png")
    assert (read_rgb(tmp_path / "image.png") == pixels).all()
    assert to_tensor(Image.fromarray(pixels)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 0, 8, 3), (8, 8, 3), (1, 8, 8, 2)])
def test_a_tensor_without_an_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^The image input .*: connect [^.]*\.$"):
        check_images(torch.zeros(shape))
