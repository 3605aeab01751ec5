"""Draw a similarity matrix: a coloured cell for each pair, the maximum of each row framed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..shared.images import to_tensor
from .heatmap import apply_colormap, min_max_scale
from .style import PAPER, TEXT, load_font, text_colour_on

CELL = 72
"""Side of a cell in pixels, large enough for its number."""

SMALL_CELL = 4
"""The same where there are too many for numbers and labels."""

MAX_LABELLED = 40
"""Rows or columns; with more of either, cells are small."""

FONT_SIZE = 18
"""Pixels; three lines fit into a cell."""

MAX_LINES, MAX_LETTERS = 3, 24


def draw_matrix(
    values: Tensor,
    labels: tuple[Sequence[str], Sequence[str]],
    thumbnails: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """Return an image, float32 [1,H,W,3] in 0..1, of similarities [N,M].

    Colours run from the lowest value (dark violet) to the highest (yellow). `labels` are those of
    the N rows and the M columns; `thumbnails` of either, uint8 [N,h,w,3] with h = w, replace them.
    With more than 40 rows or columns, cells are 4 pixels wide and nothing is labelled.
    """
    labelled = max(values.shape) <= MAX_LABELLED
    cell = CELL if labelled else SMALL_CELL
    font = load_font(FONT_SIZE, "".join(chain(*labels)))
    heads: list[list[Image.Image]] = [[], []]
    if labelled:
        heads = [_heads(*pair, font) for pair in zip(labels, thumbnails, strict=True)]
        if thumbnails[1] is None:
            heads[1] = [head.rotate(90, expand=True) for head in heads[1]]
    left = max((head.width for head in heads[0]), default=0)
    top = max((head.height for head in heads[1]), default=0)
    height, width = values.shape
    sheet = Image.new("RGB", (left + width * cell, top + height * cell), PAPER)
    for k, head in enumerate(heads[0]):
        sheet.paste(head, (left - head.width, top + k * cell + (cell - head.height) // 2))
    for k, head in enumerate(heads[1]):
        sheet.paste(head, (left + k * cell + (cell - head.width) // 2, top - head.height))
    fills = apply_colormap(min_max_scale(values)).mul(255).round().byte()
    cells = Image.fromarray(fills.numpy())
    sheet.paste(cells.resize((width * cell, height * cell), Image.Resampling.NEAREST), (left, top))
    if labelled:
        _draw_values(ImageDraw.Draw(sheet), values, fills, (left, top), font)
    return to_tensor(sheet)[None]


def _heads(
    labels: Sequence[str], thumbnails: Tensor | None, font: ImageFont.FreeTypeFont
) -> list[Image.Image]:
    """Return the thumbnails, framed, or else the labels, as images."""
    if thumbnails is None:
        return [_label(label, font) for label in labels]
    heads = []
    for thumbnail in thumbnails:
        image = Image.fromarray(thumbnail.numpy())
        head = Image.new("RGB", (CELL, CELL), PAPER)
        head.paste(image.resize((CELL - 4, CELL - 4), Image.Resampling.LANCZOS), (2, 2))
        heads.append(head)
    return heads


def _label(label: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    lines = wrap(label, MAX_LETTERS, max_lines=MAX_LINES, placeholder="…") or [""]
    text = "\n".join(lines)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, width, height = pen.multiline_textbbox((0, 0), text, font=font, spacing=0)
    head = Image.new("RGB", (math.ceil(width) + FONT_SIZE, math.ceil(height) + 2), PAPER)
    ImageDraw.Draw(head).multiline_text((FONT_SIZE // 2, 0), text, fill=TEXT, font=font, spacing=0)
    return head


def _draw_values(
    pen: ImageDraw.ImageDraw,
    values: Tensor,
    fills: Tensor,
    origin: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    best = values.argmax(1).tolist()
    for k, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            x, y = origin[0] + j * CELL, origin[1] + k * CELL
            colour = text_colour_on("#{:02X}{:02X}{:02X}".format(*fills[k, j].tolist()))
            centre = (x + CELL / 2, y + CELL / 2)
            pen.text(centre, f"{value:.2f}", fill=colour, font=font, anchor="mm")
            if j == best[k]:
                pen.rectangle((x + 1, y + 1, x + CELL - 2, y + CELL - 2), outline=colour, width=3)
