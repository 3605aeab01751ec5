"""Four pictures of the demo's subject, drawn as they lie in ``sandbox/subject/``.

`python sandbox/draw_subject.py` writes them anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from .world.individual import SUBJECT
from .world.scene import place, render

FOLDER = Path(__file__).resolve().parent / "subject"
SEEN = ("meadow", "white", "mint", "sea")
"""The backgrounds of the four pictures."""
UNSEEN = ("snow", "desert", "sunset", "night")
"""The backgrounds left to prompts."""
SEED = 77


def portraits(size: int = 256) -> list[Image.Image]:
    """The four pictures, ``size`` x ``size`` RGB."""
    pictures = []
    for k, background in enumerate(SEEN):
        rng = np.random.default_rng((SEED, k))
        one = replace(SUBJECT, flip=k == 2)
        pictures.append(render(place([one], background, SEED + k, rng), size)[0])
    return pictures


def main() -> None:
    """Write the four pictures as PNG files."""
    FOLDER.mkdir(exist_ok=True)
    for k, picture in enumerate(portraits(), start=1):
        picture.save(FOLDER / f"sks_dog_{k}.png", optimize=True)
