"""A subject on one sheet: its pictures as they are learned from, captions below."""

from __future__ import annotations

from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..training.data.subject import Subject
from .caption_strip import PAPER, CaptionStrip, TextRun

SIDE, COLUMNS, LETTERS = 256, 4, 14
SHADE = 0.35
"""Brightness of what lies outside a picture's mask."""


def draw_subject_sheet(subject: Subject) -> np.ndarray:
    """Draw all pictures, the middle square of each, uint8 [H,W,3]; up to four in a row."""
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(LETTERS))
    strips = [
        CaptionStrip([TextRun(" / ".join(caption.splitlines()), None)], SIDE, font)
        for caption in subject.captions
    ]
    columns = min(COLUMNS, len(strips))
    starts = range(0, len(strips), columns)
    rows = [range(start, min(start + columns, len(strips))) for start in starts]
    heights = [SIDE + max(strips[k].height for k in row) for row in rows]
    page = Image.new("RGB", (columns * SIDE, sum(heights)), PAPER)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            tile = Image.new("RGB", (SIDE, height), PAPER)
            tile.paste(_thumbnail(subject, k))
            strips[k].draw(ImageDraw.Draw(tile), SIDE)
            page.paste(tile, (column * SIDE, top))
        top += height
    return np.asarray(page)


def _thumbnail(subject: Subject, k: int) -> Image.Image:
    pixels = subject.images[k]
    if subject.masks:
        inside = subject.masks[k][..., None] / 255
        pixels = (pixels * (SHADE + (1 - SHADE) * inside)).astype(np.uint8)
    image = Image.fromarray(pixels)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    return image.resize((SIDE, SIDE), box=(left, top, left + edge, top + edge))
