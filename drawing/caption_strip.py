"""The strip under a picture: its caption, phrases marked in the colours of their boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import ImageColor, ImageDraw, ImageFont

PAPER, TEXT = "#16181D", "#F2F2F2"


class TextRun(NamedTuple):
    """A piece of a caption; `colour` is the background to mark it with, if any."""

    text: str
    colour: str | None


def ink_on(colour: str) -> str:
    """Return black or white, whichever stands out more (WCAG 2.2, relative luminance)."""
    channels = (value / 255 for value in ImageColor.getrgb(colour)[:3])
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = sum(
        part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)
    )
    return "#000000" if luminance > 0.179 else "#FFFFFF"


class CaptionStrip:
    """A caption, wrapped to a width in pixels; `height` is what it needs, margins included."""

    def __init__(self, runs: Sequence[TextRun], width: int, font: ImageFont.FreeTypeFont) -> None:
        self._font = font
        self._margin = round(font.size / 2)
        self._line_height = round(sum(font.getmetrics()) * 1.25)
        self._lines = _wrap(runs, width - 2 * self._margin, font)
        self.height = 2 * self._margin + len(self._lines) * self._line_height

    def draw(self, pen: ImageDraw.ImageDraw, top: int) -> None:
        """Draw the caption from `top` downwards."""
        y = top + self._margin
        for line in self._lines:
            x = float(self._margin)
            for text, colour in line:
                end = x + self._font.getlength(text)
                if colour is not None:
                    pen.rectangle((x, y, end, y + self._line_height - 2), fill=colour)
                fill = TEXT if colour is None else ink_on(colour)
                pen.text((x, y), text, fill=fill, font=self._font)
                x = end
            y += self._line_height


def _wrap(
    runs: Sequence[TextRun], width: float, font: ImageFont.FreeTypeFont
) -> list[list[TextRun]]:
    lines: list[list[TextRun]] = [[]]
    used = 0.0
    for word, colour in _words(runs, width, font):
        length = font.getlength(word)
        if used + length > width and lines[-1]:
            lines.append([])
            used = 0.0
            word = word.lstrip()
            length = font.getlength(word)
        lines[-1].append(TextRun(word, colour))
        used += length
    return lines


def _words(
    runs: Sequence[TextRun], width: float, font: ImageFont.FreeTypeFont
) -> Iterator[TextRun]:
    """Give words with the blanks before them, those wider than a line in pieces."""
    for text, colour in runs:
        for word in re.findall(r"\s*\S+|\s+$", text):
            piece = ""
            for letter in word:
                if piece and font.getlength(piece + letter) > width:
                    yield TextRun(piece, colour)
                    piece = ""
                piece += letter
            yield TextRun(piece, colour)
