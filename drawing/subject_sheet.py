"""Draw the training images of a subject on one sheet, captions below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..shared.images import to_tensor
from .caption_strip import CaptionStrip, TextRun
from .style import PAPER, load_font

SIDE, COLUMNS, FONT_SIZE = 256, 4, 14
OUTSIDE = 0.35
"""Brightness outside an image's mask."""


def draw_subject_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str], masks: Sequence[np.ndarray] = ()
) -> Tensor:
    """Return the centre square of each image on a sheet, float32 [1,H,W,3] in 0..1.

    `images` are uint8 [H,W,3] of any sizes, and `masks`, if any, uint8 [H,W] of the same sizes.
    There are up to four images in a row.
    """
    font = load_font(FONT_SIZE, "".join(captions))
    strips = [
        CaptionStrip([TextRun(" / ".join(caption.splitlines()), None)], SIDE, font)
        for caption in captions
    ]
    columns = min(COLUMNS, len(strips))
    starts = range(0, len(strips), columns)
    rows = [range(start, min(start + columns, len(strips))) for start in starts]
    heights = [SIDE + max(strips[k].height for k in row) for row in rows]
    sheet = Image.new("RGB", (columns * SIDE, sum(heights)), PAPER)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            tile = Image.new("RGB", (SIDE, height), PAPER)
            tile.paste(_thumbnail(images[k], masks[k] if masks else None))
            strips[k].draw(ImageDraw.Draw(tile), SIDE)
            sheet.paste(tile, (column * SIDE, top))
        top += height
    return to_tensor(sheet)[None]


def _thumbnail(pixels: np.ndarray, mask: np.ndarray | None) -> Image.Image:
    if mask is not None:
        inside = mask[..., None] / 255
        pixels = (pixels * (OUTSIDE + (1 - OUTSIDE) * inside)).astype(np.uint8)
    image = Image.fromarray(pixels)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    return image.resize((SIDE, SIDE), box=(left, top, left + edge, top + edge))
