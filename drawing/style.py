"""The font and the colours of drawn sheets."""

from __future__ import annotations

from contextlib import suppress
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
"""Fonts of Linux, Windows and macOS for text that Pillow's own font cannot show."""
NO_CHARACTER = "\uffff"
"""No font has a glyph for it, so it is drawn as the font's .notdef glyph."""


def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Return a font, `size` pixels high: Pillow's own, or an installed one for other characters.

    It is the first of those that lack the fewest characters of `text`.
    """
    own = cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
    if text.isascii():
        return own
    installed = (font.font_variant(size=size) for font in _installed_fonts())
    return min((own, *installed), key=lambda font: _count_missing_glyphs(font, text))


@cache
def _installed_fonts() -> list[ImageFont.FreeTypeFont]:
    fonts = []
    for name in FONT_FILES:
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name))
    return fonts


def _count_missing_glyphs(font: ImageFont.FreeTypeFont, text: str) -> int:
    notdef = bytes(font.getmask(NO_CHARACTER))
    return sum(bytes(font.getmask(char)) == notdef for char in set(text) if not char.isspace())


def text_colour_on(background: str) -> str:
    """Return black or white, whichever contrasts more (WCAG 2.2, relative luminance)."""
    channels = (value / 255 for value in ImageColor.getrgb(background)[:3])
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = sum(
        value * weight for value, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)
    )
    return "#000000" if luminance > 0.179 else "#FFFFFF"
