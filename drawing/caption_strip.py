"""Draw captions below images, with words marked in colours."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..shared.images import Images, check_images, to_pil, to_tensor
from .style import PAPER, TEXT, load_font, text_colour_on

MIN_SIDE = 512
"""Images are enlarged until the longer side has at least this many pixels."""

MIN_FONT_SIZE = 14
"""Pixels."""


class TextRun(NamedTuple):
    """A piece of a caption; `colour` is the background to mark it with, if any."""

    text: str
    colour: str | None


class CaptionStrip:
    """A caption, wrapped to a width in pixels; `height` is what it needs, margins included."""

    def __init__(self, runs: Sequence[TextRun], width: int, font: ImageFont.FreeTypeFont) -> None:
        self._font = font
        self._margin = round(font.size / 2)
        self._line_height = round(sum(font.getmetrics()) * 1.25)
        self._lines = wrap_runs(runs, width - 2 * self._margin, font)
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
                fill = TEXT if colour is None else text_colour_on(colour)
                pen.text((x, y), text, fill=fill, font=self._font)
                x = end
            y += self._line_height


DrawOnSheet = Callable[[int, Image.Image, tuple[int, int], ImageFont.FreeTypeFont], None]
"""Called with the image's index, the sheet, the (width, height) of the image, which lies in the
sheet's upper left corner, and the font."""


def draw_captioned(
    images: Images, captions: Sequence[Sequence[TextRun]], draw: DrawOnSheet
) -> Tensor:
    """Return sheets with an image and its caption below, float32 [B,H',W',3] in 0..1 on the CPU.

    `images` are B images of one size as in `to_rgb`, each with a caption in runs, and `draw` adds
    to the image on its sheet. Images are enlarged by a whole number until the longer side has 512
    pixels, very narrow ones get a margin, and all strips are as high as the longest caption needs.
    The font grows with the image. Raises UserError for an empty batch.
    """
    check_images(images)
    height, width = images[0].shape[:2]
    factor = math.ceil(MIN_SIDE / max(height, width))
    height, width = height * factor, width * factor
    sheet_width = max(width, height // 2)
    text = "".join(run.text for caption in captions for run in caption)
    font = load_font(max(round((height + width) / 64), MIN_FONT_SIZE), text)
    strips = [CaptionStrip(caption, sheet_width, font) for caption in captions]
    size = (sheet_width, height + max(strip.height for strip in strips))
    sheets = torch.empty(len(strips), size[1], size[0], 3)
    for index, (image, strip) in enumerate(zip(images, strips, strict=True)):
        sheet = Image.new("RGB", size, PAPER)
        sheet.paste(to_pil(image).resize((width, height), Image.Resampling.BICUBIC))
        draw(index, sheet, (width, height), font)
        strip.draw(ImageDraw.Draw(sheet), height)
        sheets[index] = to_tensor(sheet)
    return sheets


def wrap_runs(
    runs: Sequence[TextRun], width: float, font: ImageFont.FreeTypeFont
) -> list[list[TextRun]]:
    """Return the runs in lines of at most `width` pixels; a word wider than that is broken."""
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
    """Yield words with the blanks before them, those wider than a line in pieces."""
    for text, colour in runs:
        for word in re.findall(r"\s*\S+|\s+$", text):
            piece = ""
            for letter in word:
                if piece and font.getlength(piece + letter) > width:
                    yield TextRun(piece, colour)
                    piece = ""
                piece += letter
            yield TextRun(piece, colour)
