"""Scenes that no model was trained on, as they lie in ``sandbox/scenes/`` and ``sandbox/german/``.

The saved workflows caption sixteen of them, search them and find things in them, and learn German
from others. `python sandbox/draw_scenes.py` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .pool import HELD_OUT
from .world.scene import draw_scene, render

FOLDER = Path(__file__).resolve().parent / "scenes"
CHOSEN = (2, 4, 9, 10, 11, 15, 16, 22, 29, 30, 34, 38, 39, 40, 43, 47)
"""Of the scenes behind FIRST: every kind, every background, one to three things."""
FIRST = HELD_OUT + 7000

GERMAN = FOLDER.with_name("german")
LESSONS = 96
"""Scenes with a German caption and its boxes."""


def scenes(size: int = 256) -> list[Image.Image]:
    """The pictures, ``size`` x ``size`` RGB."""
    return [render(draw_scene(FIRST + k), size)[0] for k in CHOSEN]


def main() -> None:
    """Write the pictures as PNG files."""
    # Nodes show the scenes, and should not have to wait for what teaches languages.
    from ..training.captions.dataset import write_examples
    from .scores.languages import examples

    FOLDER.mkdir(exist_ok=True)
    for k, picture in enumerate(scenes(), start=1):
        picture.save(FOLDER / f"scene_{k:02}.png", optimize=True)
    write_examples(GERMAN, examples("German", LESSONS))
