"""Write `sandbox/scenes/` and `sandbox/german/`, which the saved workflows read."""

from __future__ import annotations

from pathlib import Path

from ..training.captions.dataset import write_examples
from .scenes import scenes
from .scores.languages import examples

SCENES = Path(__file__).resolve().parents[1] / "sandbox" / "scenes"
GERMAN = SCENES.with_name("german")
LESSONS = 96
"""Scenes with a German caption and its boxes."""


def main() -> None:
    """Write the images as PNG files."""
    SCENES.mkdir(exist_ok=True)
    for k, picture in enumerate(scenes(), start=1):
        picture.save(SCENES / f"scene_{k:02}.png", optimize=True)
    write_examples(GERMAN, examples("German", LESSONS))
