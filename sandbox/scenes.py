"""The sixteen scenes of `sandbox/scenes/`, drawn at any size; no model was trained on them."""

from __future__ import annotations

from PIL import Image

from .world.scene import HELD_OUT, draw_scene, render

CHOSEN = (2, 4, 9, 10, 11, 15, 16, 22, 29, 30, 34, 38, 39, 40, 43, 47)
"""Offsets from FIRST: every kind, every background, one to three things."""
FIRST = HELD_OUT + 7000


def scenes(size: int = 256) -> list[Image.Image]:
    """Return the sixteen images, `size` x `size` RGB."""
    return [render(draw_scene(FIRST + k), size)[0] for k in CHOSEN]
