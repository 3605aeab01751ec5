"""Draw rows of images with prompts, captions and scores: subject, generated scenes, class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .caption_strip import TextRun, wrap_runs
from .style import load_font

Colour = tuple[int, int, int]

WIDTH = 1600
MARGIN = 64
GAP = 24
MIN_COLUMNS = 4
PAPER = (252, 248, 240)
INK = (42, 36, 64)
FAINT = (134, 126, 146)
TRACK = (232, 225, 218)
TEAL = (38, 178, 172)
PLUM = (166, 118, 176)
LEADING = 7
SUPERSAMPLING = 4  # of the rounded corners


class SheetImage(NamedTuple):
    """An image file, its prompt, and the captioner's text; the scores, if any, are in 0..1."""

    path: Path
    prompt: str
    caption: str
    subject_score: float | None = None
    class_score: float | None = None


class SheetRow(NamedTuple):
    """A title, a line that explains it, and the images below."""

    title: str
    text: str
    images: Sequence[SheetImage]


class TextLine(NamedTuple):
    """A line of text below an image."""

    text: str
    colour: Colour
    font: ImageFont.FreeTypeFont

    @property
    def height(self) -> int:
        """The distance to the next line, in pixels."""
        return round(self.font.size) + LEADING


def draw_sheet(title: str, text: str, rows: Sequence[SheetRow], footer: str) -> Image.Image:
    """Return the sheet, RGB, 1600 pixels wide and as high as it needs to be."""
    pieces = [_header(title, text), *(_row(row) for row in rows), _footer(footer)]
    sheet = Image.new("RGB", (WIDTH, sum(piece.height for piece in pieces)), PAPER)
    top = 0
    for piece in pieces:
        sheet.paste(piece, (0, top))
        top += piece.height
    return sheet


def _blank(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    piece = Image.new("RGB", (WIDTH, height), PAPER)
    return piece, ImageDraw.Draw(piece)


def _header(title: str, text: str) -> Image.Image:
    piece, pen = _blank(176)
    pen.rectangle((0, 0, WIDTH, 10), fill=TEAL)
    pen.text((MARGIN, 60), title, INK, load_font(52))
    pen.text((MARGIN, 130), text, FAINT, load_font(24))
    return piece


def _footer(text: str) -> Image.Image:
    piece, pen = _blank(92)
    pen.text((MARGIN, 28), text, FAINT, load_font(20))
    return piece


def _row(row: SheetRow) -> Image.Image:
    columns = max(len(row.images), MIN_COLUMNS)
    side = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    texts = [_text_lines(image, side) for image in row.images]
    text_height = max(sum(line.height for line in lines) for lines in texts)
    cells = [
        _cell(image, side, lines, text_height)
        for image, lines in zip(row.images, texts, strict=True)
    ]
    header_height = 116
    piece, pen = _blank(header_height + max(cell.height for cell in cells) + 8)
    pen.text((MARGIN, 30), row.title, INK, load_font(32))
    pen.text((MARGIN, 72), row.text, FAINT, load_font(21))
    for column, cell in enumerate(cells):
        piece.paste(cell, (MARGIN + column * (side + GAP), header_height))
    return piece


def _text_lines(image: SheetImage, side: int) -> list[TextLine]:
    """Return the lines of text below an image."""
    size = 22 if side > 300 else 19
    return _wrap(image.prompt, INK, size, side) + _wrap(image.caption, FAINT, size - 3, side)


def _cell(image: SheetImage, side: int, lines: Sequence[TextLine], text_height: int) -> Image.Image:
    bars = [("subject", image.subject_score, TEAL), ("class", image.class_score, PLUM)]
    scores = [(name, value, colour) for name, value, colour in bars if value is not None]
    height = side + 14 + text_height + (8 + 24 * len(scores)) + 14
    cell = Image.new("RGB", (side, height), PAPER)
    with Image.open(image.path) as file:
        _paste_rounded(cell, file.convert("RGB"), side)
    pen = ImageDraw.Draw(cell)
    top = side + 14
    for line in lines:
        pen.text((0, top), line.text, line.colour, line.font)
        top += line.height
    for k, (name, value, colour) in enumerate(scores):
        _bar(pen, side + 14 + text_height + 8 + 24 * k, side, name, value, colour)
    return cell


def _paste_rounded(cell: Image.Image, image: Image.Image, side: int) -> None:
    large = side * SUPERSAMPLING
    corners, radius = (0, 0, large - 1, large - 1), large // 14
    mask, frame = Image.new("L", (large, large)), Image.new("L", (large, large))
    ImageDraw.Draw(mask).rounded_rectangle(corners, radius, 255)
    ImageDraw.Draw(frame).rounded_rectangle(corners, radius, outline=255, width=3 * SUPERSAMPLING)
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    cell.paste(image, (0, 0), mask.resize((side, side), Image.Resampling.BOX))
    cell.paste(INK, (0, 0, side, side), frame.resize((side, side), Image.Resampling.BOX))


def _bar(
    pen: ImageDraw.ImageDraw, top: int, width: int, name: str, value: float, colour: Colour
) -> None:
    left, right = 64, width - 48
    pen.text((0, top), name, FAINT, load_font(16))
    pen.rounded_rectangle((left, top + 6, right, top + 16), 5, TRACK)
    end = left + round((right - left) * min(max(value, 0.0), 1.0))
    if end > left + 5:
        pen.rounded_rectangle((left, top + 6, end, top + 16), 5, colour)
    pen.text((width, top), f"{value:.2f}", INK, load_font(16), anchor="ra")


def _wrap(text: str, colour: Colour, size: int, width: int) -> list[TextLine]:
    font = load_font(size, text)
    lines = wrap_runs([TextRun(" ".join(text.split()), None)], width, font)
    return [TextLine("".join(run.text for run in line), colour, font) for line in lines if line]
