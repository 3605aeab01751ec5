"""The eight backgrounds: six two-toned landscapes and two plain walls."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .individual import RGB, shifted

TONES: dict[str, tuple[RGB, RGB]] = {
    "meadow": ((190, 228, 250), (132, 200, 104)),
    "snow": ((168, 190, 214), (248, 250, 255)),
    "desert": ((252, 240, 204), (230, 190, 120)),
    "sea": ((206, 236, 246), (42, 140, 186)),
    "night": ((30, 32, 74), (22, 52, 60)),
    "sunset": ((252, 158, 112), (104, 58, 100)),
    "white": ((252, 251, 248), (252, 251, 248)),
    "mint": ((184, 236, 212), (184, 236, 212)),
}
"""Background -> (upper, lower) tone."""


def draw_backdrop(
    name: str, width: int, height: int, horizon: float, rng: np.random.Generator
) -> Image.Image:
    """Draw a background; `horizon` is where the ground begins, 0 (top) to 1 (bottom)."""
    upper, lower = TONES[name]
    shade = rng.integers(-6, 7, 3).tolist()
    upper, lower = (shifted(tone, 1, shade) for tone in (upper, lower))
    image = Image.new("RGB", (width, height), upper)
    draw = ImageDraw.Draw(image)
    line = horizon * height
    if name == "night":
        for x, y in rng.uniform(size=(7, 2)):
            r = width * 0.013
            x, y = x * width, y * line
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(244, 240, 206))
        x, y, r = rng.uniform(0.1, 0.9) * width, 0.12 * height, 0.075 * width
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 244, 208))
        draw.ellipse((x - r * 0.3, y - r * 1.2, x + r * 1.3, y + r * 0.7), fill=upper)
    if name == "sunset":
        x, r = rng.uniform(0.15, 0.85) * width, 0.17 * width
        draw.ellipse((x - r, line - r, x + r, line + r), fill=(255, 222, 120))
    if name not in ("white", "mint"):
        bend = rng.uniform(-0.05, 0.05) * height if name != "sea" else 0
        ground = [(0, line + bend), (width / 2, line - bend), (width, line + bend)]
        draw.polygon([*ground, (width, height), (0, height)], fill=lower)
    if name == "sea":
        pale = shifted(lower, 1, (46, 46, 46))
        for row in range(3):
            y = line + (row + 0.7) * (height - line) / 3.4
            start = rng.uniform(0, 0.3) * width
            for k in range(4):
                x = start + k * width * 0.3
                draw.arc(
                    (x, y, x + width * 0.14, y + height * 0.05),
                    180,
                    360,
                    pale,
                    round(width * 0.016),
                )
    return image
