"""The pack's banner for ComfyUI's registry, drawn from its own world.

`python -m dev draw-banner` writes `web/banner.png`, 21 to 9.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...as_package import ROOT
from ...sandbox.scenes import CHOSEN, FIRST
from ...sandbox.world.individual import RGB, SUBJECT
from ...sandbox.world.scene import Box, Scene, draw_scene, place, render

FILE = ROOT / "web" / "banner.png"
SIZE = (1260, 540)
SIDE = 270
PAPER = (252, 248, 240)
INK = (42, 36, 64)
TEAL = (29, 123, 119)
MAGENTA = (226, 48, 120)
PLACES = ("meadow", "night", "desert", "snow")
"""Where the subject stands."""
OTHERS = (CHOSEN[15], CHOSEN[12])
"""Scenes without it: a cat and a rocket; a house."""


def draw_banner() -> Image.Image:
    """Return the banner, RGB: its title, and six scenes with what a look finds in them boxed."""
    banner = Image.new("RGB", SIZE, PAPER)
    scenes = [render(_portrait(k), SIDE) for k in range(len(PLACES))]
    names = [["sks dog"]] * len(PLACES)
    for k in OTHERS:
        scene = draw_scene(FIRST + k)
        scenes.append(render(scene, SIDE))
        names.append(
            [f"{thing.individual.colour} {thing.individual.kind}" for thing in scene.things]
        )
    order = (0, 4, 1, 2, 3, 5)
    for slot, k in enumerate(order):
        picture, boxes = scenes[k]
        _point(picture, boxes, names[k], MAGENTA if k < len(PLACES) else TEAL)
        banner.paste(picture, (SIZE[0] - (3 - slot % 3) * SIDE, slot // 3 * SIDE))
    draw = ImageDraw.Draw(banner)
    lines = (("Kosmos", 84, 118, INK), ("DreamBooth", 68, 214, MAGENTA))
    for text, size, top, ink in lines:
        draw.text((40, top), text, fill=ink, font=ImageFont.load_default(size))
    for k, text in enumerate(("look", "personalise", "generate", "look again")):
        draw.text((42, 318 + 34 * k), text, fill=TEAL, font=ImageFont.load_default(26))
    return banner


def _portrait(k: int) -> Scene:
    rng = np.random.default_rng(k)
    return place([SUBJECT], PLACES[k], k, rng)


def _point(picture: Image.Image, boxes: list[Box], names: list[str], ink: RGB) -> None:
    """Box what is there, and say what it is."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for (x0, y0, x1, y1), name in zip(boxes, names, strict=True):
        left, top = max(2, x0 * SIDE - 4), max(22, y0 * SIDE - 4)
        right, bottom = min(SIDE - 3, x1 * SIDE + 4), min(SIDE - 3, y1 * SIDE + 4)
        draw.rectangle((left, top, right, bottom), outline=ink, width=3)
        draw.rectangle((left, top - 20, left + font.getlength(name) + 10, top), fill=ink)
        draw.text((left + 5, top - 19), name, fill=PAPER, font=font)


def main() -> None:
    """Write the file."""
    draw_banner().quantize(128).save(FILE, optimize=True)
