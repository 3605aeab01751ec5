"""A report on one sheet: bars for bytes and seconds, pictures of before and after below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..quantize.quantize_report import QuantizeReport
from ..shared.images import to_pil, to_tensor
from ..shared.model_size import as_text
from .caption_strip import PAPER, TEXT

WIDTH, MARGIN, LETTERS = 1024, 24, 18
LABEL, FIGURE = 170, 200
BAR, GAP = 18, 6
BEFORE, AFTER, FAINT = "#7A8190", "#35C28B", "#A9AFBA"
MOST = 4
"""Pictures in a row; more would be too small to see a difference in."""


def draw_quantize_sheet(report: QuantizeReport, rows: Mapping[str, Tensor]) -> Tensor:
    """Draw a report with rows of pictures, each [N,H,W,3], by their titles; float 0..1 [H,W,3]."""
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(LETTERS))
    line = round(LETTERS * 1.5)
    side = (WIDTH - LABEL - MARGIN) // MOST
    strips = {title: [_fit(p, side) for p in pictures[:MOST]] for title, pictures in rows.items()}
    heights = [max(picture.height for picture in strip) + MARGIN // 2 for strip in strips.values()]
    bars_height = 3 * (2 * (BAR + GAP) + MARGIN // 2)
    moved = str(report).splitlines()[4]
    height = 3 * MARGIN + 2 * line + line // 2 + bars_height + sum(heights)
    page = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(page)
    top = MARGIN
    pen.text((MARGIN, top), f"{report.name}: {report.format}", fill=TEXT, font=font)
    top += line + line // 2
    top = _bars(pen, report, top, font)
    pen.text((MARGIN, top), moved, fill=TEXT, font=font)
    top += line + MARGIN // 2
    for (title, strip), tall in zip(strips.items(), heights, strict=True):
        pen.multiline_text((MARGIN, top), title.replace(", ", ",\n"), fill=FAINT, font=font)
        for k, picture in enumerate(strip):
            page.paste(picture, (LABEL + k * side, top))
        top += tall
    return to_tensor(page)


def _bars(
    pen: ImageDraw.ImageDraw, report: QuantizeReport, top: int, font: ImageFont.FreeTypeFont
) -> int:
    """Draw each figure before and after, the longer bar over the whole width; return the end."""
    before, after = report.before, report.after
    figures = [
        ("in memory", before.memory, after.memory, as_text),
        ("on disk", before.disk, after.disk, as_text),
        (f"time per {report.unit}", before.seconds, after.seconds, lambda s: f"{s:.3g} s"),
    ]
    room = WIDTH - LABEL - FIGURE - MARGIN
    for title, first, second, say in figures:
        pen.text((MARGIN, top), title, fill=TEXT, font=font)
        for value, colour in ((first, BEFORE), (second, AFTER)):
            end = LABEL + max(1, round(room * value / max(first, second)))
            pen.rectangle((LABEL, top, end, top + BAR), fill=colour)
            pen.text((end + GAP, top - 3), say(value), fill=TEXT, font=font)
            top += BAR + GAP
        top += MARGIN // 2
    return top


def _fit(picture: Tensor, side: int) -> Image.Image:
    image = to_pil(picture)
    wide = side - GAP
    return image.resize((wide, round(image.height * wide / image.width)))
