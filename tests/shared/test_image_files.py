"""Image files: which are listed, and how values of more than 8 bits are scaled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.shared.image_files import list_images, read_image
from kosmos_dreambooth.shared.images import READ_ERRORS
from PIL import Image, features

RAMP = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("float.tiff", RAMP),
        ("bytes.tiff", RAMP * 255),
        ("words.tiff", RAMP * 65535),
        ("eight.tiff", (RAMP * 255).astype(np.int32)),
        ("sixteen.png", (RAMP * 65535).astype(np.uint16)),
        ("twelve.tiff", (RAMP * 4095).astype(np.uint16)),
        ("small.tiff", (RAMP * 255).astype(np.uint16)),
        ("many.tiff", (RAMP * 2_000_000_000).astype(np.int32)),
        ("signed.tiff", (RAMP * 2000 - 1000).astype(np.int32)),
        ("negative.tiff", RAMP * 2 - 1),
    ],
)
def test_grey_values_are_scaled_by_their_type_and_range(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    Image.fromarray(values).save(tmp_path / name)
    image, size = read_image(tmp_path / name)
    assert size == (30, 20)
    assert np.abs(image.numpy() - RAMP[..., None]).max() < 0.006


def test_highlights_are_clipped_and_nan_is_black(tmp_path: Path) -> None:
    values = RAMP.copy()
    values[0, :3] = [np.nan, 4.0, np.inf]
    Image.fromarray(values).save(tmp_path / "a.tiff")
    image = read_image(tmp_path / "a.tiff")[0][..., 0]
    assert image[0, :2].tolist() == [0, 1]
    assert np.abs(image[1:].numpy() - RAMP[1:]).max() < 0.003


def test_a_binary_mask_of_integers_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray((RAMP > 0.5).astype(np.int32)).save(tmp_path / "a.tiff")
    assert set(read_image(tmp_path / "a.tiff")[0].unique().tolist()) == {0, 1}


def test_every_suffix_of_an_image_is_listed_in_linked_folders_too(tmp_path: Path) -> None:
    root, outside = tmp_path / "set", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    names = ["a.jfif", "b.jpe", "c.JPG", "d.jxl", "e.webp", "f.txt", ".g.png"]
    for name in names:
        (root / name).write_bytes(b"")
    (outside / "h.png").write_bytes(b"")
    (root / "sub" / "loop").symlink_to(root)
    (root / "linked").symlink_to(outside)
    (root / "z.png").symlink_to(root / "gone.png")
    listed = [path.relative_to(root).as_posix() for path in list_images(root)]
    assert listed == ["a.jfif", "b.jpe", "c.JPG", "d.jxl", "e.webp", "linked/h.png", "z.png"]


def test_an_image_with_damaged_exif_data_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.png", exif=b"II*\0\0\0")
    image, size = read_image(tmp_path / "a.png")
    assert size == (4, 3)
    assert (image == image.new_tensor([1, 0, 0])).all()


@pytest.mark.skipif("avif" not in features.get_supported(), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_raises_a_read_error(tmp_path: Path) -> None:
    file = tmp_path / "a.avif"
    Image.new("RGB", (4, 3), "red").save(file)
    file.write_bytes(file.read_bytes().replace(b"iloc", b"none"))
    with pytest.raises(READ_ERRORS):
        read_image(file)


def test_the_a_of_lab_is_not_alpha(tmp_path: Path) -> None:
    Image.new("LAB", (4, 3), (128, 200, 128)).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff")[0].shape == (3, 4, 3)
