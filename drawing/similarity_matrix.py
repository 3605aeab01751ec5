"""A similarity matrix as a picture: a coloured cell for each pair, the best of each row framed."""

from __future__ import annotations

import math
from textwrap import wrap
from typing import cast

from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from ..kosmos.insight.embedding import THUMBNAIL_SIZE, Embedding
from ..shared.images import to_tensor
from .caption_strip import PAPER, TEXT, ink_on
from .heatmap import apply_colormap, spread

CELL = 72
"""Pixels along a cell's side, where its number has room."""

SMALL_CELL = 4
"""The same where there are too many for numbers and names."""

MOST_NAMED = 40
"""Rows or columns; with more of either, cells are small."""

LETTERS = 18
"""Pixels of a letter's height; three lines fit a cell."""

LINES, LETTERS_A_LINE = 3, 24


def draw_matrix(values: Tensor, rows: Embedding, columns: Embedding) -> Tensor:
    """Return a picture, float32 [1,H,W,3] in 0..1, of similarities [N,M].

    Colours run from the lowest value (dark violet) to the highest (yellow). Rows and columns are
    named by their thumbnails, or else by their labels. Above 40 rows or columns, cells are 4 pixels
    wide and nothing is named.
    """
    named = max(values.shape) <= MOST_NAMED
    cell = CELL if named else SMALL_CELL
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(LETTERS))
    heads = [_name(rows, k, font) for k in range(len(values))] if named else []
    tops = [_name(columns, k, font, upright=True) for k in range(values.shape[1])] if named else []
    left = max((head.width for head in heads), default=0)
    top = max((head.height for head in tops), default=0)
    height, width = values.shape
    sheet = Image.new("RGB", (left + width * cell, top + height * cell), PAPER)
    for k, head in enumerate(heads):
        sheet.paste(head, (left - head.width, top + k * cell + (cell - head.height) // 2))
    for k, head in enumerate(tops):
        sheet.paste(head, (left + k * cell + (cell - head.width) // 2, top - head.height))
    fills = apply_colormap(spread(values)).mul(255).round().byte()
    cells = Image.fromarray(fills.numpy())
    sheet.paste(cells.resize((width * cell, height * cell), Image.Resampling.NEAREST), (left, top))
    if named:
        _write_numbers(ImageDraw.Draw(sheet), values, fills, (left, top), font)
    return to_tensor(sheet)[None]


def _name(
    embedding: Embedding, k: int, font: ImageFont.FreeTypeFont, *, upright: bool = False
) -> Image.Image:
    """Return what stands before a row, or over a column (then its text reads upwards)."""
    if embedding.thumbnails is not None:
        side = min(THUMBNAIL_SIZE, CELL - 4)
        picture = Image.fromarray(embedding.thumbnails[k].numpy())
        framed = Image.new("RGB", (CELL, CELL), PAPER)
        framed.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (2, 2))
        return framed
    lines = wrap(embedding.labels[k], LETTERS_A_LINE, max_lines=LINES, placeholder="…") or [""]
    text = "\n".join(lines)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, width, height = pen.multiline_textbbox((0, 0), text, font=font, spacing=0)
    strip = Image.new("RGB", (math.ceil(width) + LETTERS, math.ceil(height) + 2), PAPER)
    ImageDraw.Draw(strip).multiline_text((LETTERS // 2, 0), text, fill=TEXT, font=font, spacing=0)
    return strip.rotate(90, expand=True) if upright else strip


def _write_numbers(
    pen: ImageDraw.ImageDraw,
    values: Tensor,
    fills: Tensor,
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    best = values.argmax(1).tolist()
    for k, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            x, y = corner[0] + j * CELL, corner[1] + k * CELL
            fill = "#{:02X}{:02X}{:02X}".format(*fills[k, j].tolist())
            ink = ImageColor.getrgb(ink_on(fill))
            middle = (x + CELL / 2, y + CELL / 2)
            pen.text(middle, f"{value:.2f}", fill=ink, font=font, anchor="mm")
            if j == best[k]:
                pen.rectangle((x + 1, y + 1, x + CELL - 2, y + CELL - 2), outline=ink, width=3)
