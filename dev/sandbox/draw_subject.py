"""Draw the demo's subject: the four images in `sandbox/subject/`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from ...as_package import ROOT
from ...sandbox.world.individual import SUBJECT
from ...sandbox.world.scene import Box, place, render

FOLDER = ROOT / "sandbox" / "subject"
TRAINING_BACKGROUNDS = ("meadow", "white", "mint", "sea")
"""The backgrounds of the four images."""
UNSEEN_BACKGROUNDS = ("snow", "desert", "sunset", "night")
"""Backgrounds that only prompts name."""
SEED = 77


def draw_portrait(k: int, size: int = 256) -> tuple[Image.Image, Box]:
    """One of the four images, size x size RGB, and the subject's box in it."""
    rng = np.random.default_rng((SEED, k))
    one = replace(SUBJECT, flip=k == 2)
    image, (box,) = render(place([one], TRAINING_BACKGROUNDS[k], SEED + k, rng), size)
    return image, box


def portraits(size: int = 256) -> list[Image.Image]:
    """The four images."""
    return [draw_portrait(k, size)[0] for k in range(len(TRAINING_BACKGROUNDS))]


def main() -> None:
    """Write the four images as PNG files."""
    FOLDER.mkdir(exist_ok=True)
    for k, image in enumerate(portraits(), start=1):
        image.save(FOLDER / f"sks_dog_{k}.png", optimize=True)
