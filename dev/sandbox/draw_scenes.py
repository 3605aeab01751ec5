"""Write `sandbox/scenes/` and `sandbox/german/`, which the saved workflows read."""

from __future__ import annotations

from ...as_package import ROOT
from ...sandbox.scenes import scenes
from ...training.captions.caption_dataset import write_examples
from ..scores.language_scores import examples

SCENES = ROOT / "sandbox" / "scenes"
GERMAN = SCENES.with_name("german")
LESSONS = 96
"""Scenes with a German caption and its boxes."""


def main() -> None:
    """Write the images as PNG files."""
    SCENES.mkdir(exist_ok=True)
    for k, picture in enumerate(scenes(), start=1):
        picture.save(SCENES / f"scene_{k:02}.png", optimize=True)
    write_examples(GERMAN, examples("German", LESSONS))
