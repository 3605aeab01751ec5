"""Find and read the image files of folders."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from .errors import UserError
from .images import READ_ERRORS, to_tensor

logger = logging.getLogger(__name__)

FORMATS = frozenset(
    {"AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "QOI"}
    | {"TGA", "TIFF", "WEBP"}
)
"""Pillow's names of the formats that are read, where Pillow or a plugin of it can."""

PLUGIN_SUFFIXES = frozenset([".avif", ".heic", ".heif", ".jxl"])
"""Images that need a plugin; without it they are listed too, and reported as unreadable."""

FULL_SCALES = (1, 255, 4095, 65535)
"""Largest values of images of 1, 8, 12 and 16 bits."""

HDR_MAX = 16
"""Floating-point images up to this value are in 0..1 with highlights, which are clipped."""

MAX_SIDE = 1024
"""Larger images are reduced to this many pixels a side when they are read."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case."""
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401
    registered = Image.registered_extensions().items()
    return PLUGIN_SUFFIXES | {
        suffix for suffix, name in registered if name in FORMATS & Image.OPEN.keys()
    }


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, also linked ones; each folder once."""
    visited = set()
    folders = [str(folder)]
    while folders:
        for root, subfolders, files in os.walk(folders.pop(0), onerror=logger.warning):
            real = os.path.realpath(root)
            if real in visited:
                subfolders.clear()
                continue
            visited.add(real)
            links = (Path(root, name) for name in sorted(subfolders))
            folders += [str(path) for path in links if path.is_symlink()]
            yield from (Path(root, name) for name in files)


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, sorted, without hidden files and folders.

    Raises UserError when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give a folder with images.")
    return sorted(
        path
        for path in walk_files(folder)
        if path.suffix.lower() in image_suffixes()
        and (path.is_file() or path.is_symlink())
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_image(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Return an image, float [H,W,C] in 0..1 with 3 or 4 channels, and its width and height.

    The EXIF orientation is applied, and the image is reduced to at most MAX_SIDE pixels a side; the
    width and height are those of the file. Raises READ_ERRORS for a file that is no image.
    """
    with Image.open(path) as file:
        image = _upright(file)
        size = image.size
        if image.mode.startswith(("I", "F")):
            image = Image.fromarray(to_8_bits(np.asarray(image)))
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        return to_tensor(image), size


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, unless the EXIF data are damaged."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except READ_ERRORS:
        return image


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values [H,W] of more than 8 bits, or floats, as uint8.

    White is the smallest of FULL_SCALES that no value exceeds, or the largest value; in floats it
    is 1 up to HDR_MAX. Values with negative ones among them are scaled from their smallest.
    """
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = min(float(grey.min()), 0.0), float(grey.max())
    scales = [float(scale) for scale in FULL_SCALES if scale >= high] if low == 0 else []
    white = scales[0] if scales else max(high, low + 1.0)
    if values.dtype.kind == "f" and low == 0 and high <= HDR_MAX:
        white = 1.0
    scaled = (grey - low) / (white - low) * 255
    return np.asarray(scaled.clip(0, 255).round().astype(np.uint8))
