"""The font and the colours of drawn sheets."""

from __future__ import annotations

from typing import cast

from PIL import ImageColor, ImageFont

PAPER, TEXT = "#16181D", "#F2F2F2"
"""Background and text of dark sheets."""


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, `size` pixels high."""
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def text_colour_on(background: str) -> str:
    """Return black or white, whichever contrasts more (WCAG 2.2, relative luminance)."""
    channels = (value / 255 for value in ImageColor.getrgb(background)[:3])
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = sum(
        value * weight for value, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)
    )
    return "#000000" if luminance > 0.179 else "#FFFFFF"
