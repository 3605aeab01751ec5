"""Four pictures of the demo's subject, drawn as they lie in ``sandbox/subject/``.

`python -m dev draw-subject` writes them anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from ...as_package import ROOT
from ...sandbox.world.individual import SUBJECT
from ...sandbox.world.scene import Box, place, render

FOLDER = ROOT / "sandbox" / "subject"
SEEN = ("meadow", "white", "mint", "sea")
"""The backgrounds of the four pictures."""
UNSEEN = ("snow", "desert", "sunset", "night")
"""The backgrounds left to prompts."""
SEED = 77


def draw_portrait(k: int, size: int = 256) -> tuple[Image.Image, Box]:
    """One of the four pictures, ``size`` x ``size`` RGB, and the subject's box in it."""
    rng = np.random.default_rng((SEED, k))
    one = replace(SUBJECT, flip=k == 2)
    picture, (box,) = render(place([one], SEEN[k], SEED + k, rng), size)
    return picture, box


def portraits(size: int = 256) -> list[Image.Image]:
    """The four pictures."""
    return [draw_portrait(k, size)[0] for k in range(len(SEEN))]


def main() -> None:
    """Write the four pictures as PNG files."""
    FOLDER.mkdir(exist_ok=True)
    for k, picture in enumerate(portraits(), start=1):
        picture.save(FOLDER / f"sks_dog_{k}.png", optimize=True)
