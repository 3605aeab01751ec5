"""The font and the colours of drawn sheets."""

from __future__ import annotations

from functools import cache
from typing import cast

from PIL import ImageColor, ImageFont

PAPER, TEXT = "#16181D", "#F2F2F2"
"""Background and text of dark sheets."""


FONT_FILES = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "arial.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
)
"""Fonts of Linux, Windows and macOS for text that Pillow's own font, ASCII alone, cannot show."""
NO_CHARACTER = "\uffff"
"""Drawn as every character that a font lacks."""


def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Return a font, `size` pixels high: Pillow's own, or an installed one for other characters.

    If none has all characters of `text`, it is one of those that lack the fewest.
    """
    own = cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
    if text.isascii():
        return own
    installed = [ImageFont.truetype(name, size) for name in _installed()]
    return min((own, *installed), key=lambda font: _lacking(font, text))


@cache
def _installed() -> list[str]:
    return [name for name in FONT_FILES if _opens(name)]


def _opens(name: str) -> bool:
    try:
        ImageFont.truetype(name)
    except OSError:
        return False
    return True


def _lacking(font: ImageFont.FreeTypeFont, text: str) -> int:
    """Return how many of the text's characters a font has no glyph for."""
    box = bytes(font.getmask(NO_CHARACTER))
    return sum(bytes(font.getmask(char)) == box for char in set(text) if not char.isspace())


def text_colour_on(background: str) -> str:
    """Return black or white, whichever contrasts more (WCAG 2.2, relative luminance)."""
    channels = (value / 255 for value in ImageColor.getrgb(background)[:3])
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = sum(
        value * weight for value, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)
    )
    return "#000000" if luminance > 0.179 else "#FFFFFF"
