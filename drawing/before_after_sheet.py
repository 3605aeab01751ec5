"""Compare before and after on one sheet: bars for numbers, images below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw
from torch import Tensor

from ..shared.images import to_pil, to_tensor
from .style import PAPER, TEXT, load_font

WIDTH, MARGIN, FONT_SIZE = 1024, 24, 18
LABEL_WIDTH, VALUE_WIDTH = 170, 200
BAR_HEIGHT, GAP = 18, 6
BEFORE, AFTER, FAINT = "#7A8190", "#35C28B", "#A9AFBA"
MAX_IMAGES = 4
"""Images in a row; differences would not be visible in smaller ones."""


class BarPair(NamedTuple):
    """A number before and after, 0 or more, each also as the text to show."""

    label: str
    before: tuple[float, str]
    after: tuple[float, str]


def draw_before_after(
    title: str, bars: Sequence[BarPair], note: str, rows: Mapping[str, Tensor]
) -> Tensor:
    """Return a sheet, float32 [1,H,1024,3] in 0..1: title, bars, a line of text, rows of images.

    The longer bar of a pair has the full width. `rows` are images [N,H,W,3] by their titles.
    """
    font = load_font(FONT_SIZE)
    line = round(FONT_SIZE * 1.5)
    side = (WIDTH - LABEL_WIDTH - MARGIN) // MAX_IMAGES
    images = {
        label: [_resize(image, side - GAP) for image in row[:MAX_IMAGES]]
        for label, row in rows.items()
    }
    heights = [max(image.height for image in row) + MARGIN // 2 for row in images.values()]
    bars_height = len(bars) * (2 * (BAR_HEIGHT + GAP) + MARGIN // 2)
    height = 3 * MARGIN + 2 * line + line // 2 + bars_height + sum(heights)
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    top = MARGIN
    pen.text((MARGIN, top), title, fill=TEXT, font=font)
    top += line + line // 2
    full_width = WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN
    for label, before, after in bars:
        pen.text((MARGIN, top), label, fill=TEXT, font=font)
        for (value, text), colour in ((before, BEFORE), (after, AFTER)):
            end = LABEL_WIDTH + max(1, round(full_width * value / max(before[0], after[0])))
            pen.rectangle((LABEL_WIDTH, top, end, top + BAR_HEIGHT), fill=colour)
            pen.text((end + GAP, top - 3), text, fill=TEXT, font=font)
            top += BAR_HEIGHT + GAP
        top += MARGIN // 2
    pen.text((MARGIN, top), note, fill=TEXT, font=font)
    top += line + MARGIN // 2
    for (label, row), row_height in zip(images.items(), heights, strict=True):
        pen.multiline_text((MARGIN, top), label.replace(", ", ",\n"), fill=FAINT, font=font)
        for k, image in enumerate(row):
            sheet.paste(image, (LABEL_WIDTH + k * side, top))
        top += row_height
    return to_tensor(sheet)[None]


def _resize(image: Tensor, width: int) -> Image.Image:
    original = to_pil(image)
    return original.resize((width, round(original.height * width / original.width)))
