"""One picture that tells the whole walk: the subject, the subject in new scenes, the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

WIDTH = 1600
MARGIN = 64
GAP = 24
PAPER = (252, 248, 240)
INK = (42, 36, 64)
FAINT = (134, 126, 146)
TRACK = (232, 225, 218)
TEAL = (38, 178, 172)
PLUM = (166, 118, 176)
LEADING = 7
SMOOTH = 4  # rounded corners are drawn this many times larger


@dataclass(frozen=True)
class Shot:
    """One picture and what is said of it.

    `saw` is the captioner's text. The scores are similarities in 0..1; None where nobody measured.
    """

    path: Path
    prompt: str
    saw: str
    subject_score: float | None = None
    class_score: float | None = None


class Row(NamedTuple):
    """A headline, a line that explains it, and the pictures below, all on one line."""

    title: str
    text: str
    shots: Sequence[Shot]


def draw_sheet(title: str, text: str, rows: Sequence[Row], foot: str) -> Image.Image:
    """Return the sheet, RGB, 1600 pixels wide and as high as it needs to be."""
    pieces = [_heading(title, text), *(_row(row) for row in rows), _foot(foot)]
    sheet = Image.new("RGB", (WIDTH, sum(piece.height for piece in pieces)), PAPER)
    top = 0
    for piece in pieces:
        sheet.paste(piece, (0, top))
        top += piece.height
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _blank(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    piece = Image.new("RGB", (WIDTH, height), PAPER)
    return piece, ImageDraw.Draw(piece)


def _heading(title: str, text: str) -> Image.Image:
    piece, draw = _blank(176)
    draw.rectangle((0, 0, WIDTH, 10), fill=TEAL)
    draw.text((MARGIN, 60), title, INK, _font(52))
    draw.text((MARGIN, 130), text, FAINT, _font(24))
    return piece


def _foot(text: str) -> Image.Image:
    piece, draw = _blank(92)
    draw.text((MARGIN, 28), text, FAINT, _font(20))
    return piece


def _row(row: Row) -> Image.Image:
    count = max(len(row.shots), 4)
    side = (WIDTH - 2 * MARGIN - (count - 1) * GAP) // count
    words = [_words(shot, side) for shot in row.shots]
    text_height = max(height for _, height in words)
    cells = [
        _cell(shot, side, lines, text_height)
        for shot, (lines, _) in zip(row.shots, words, strict=True)
    ]
    head = 116
    piece, draw = _blank(head + max(cell.height for cell in cells) + 8)
    draw.text((MARGIN, 30), row.title, INK, _font(32))
    draw.text((MARGIN, 72), row.text, FAINT, _font(21))
    for column, cell in enumerate(cells):
        piece.paste(cell, (MARGIN + column * (side + GAP), head))
    return piece


def _words(shot: Shot, side: int) -> tuple[list[tuple[str, Colour, int]], int]:
    """Return what stands below a picture, as lines with their colour and size, and their height."""
    size = 22 if side > 300 else 19
    lines = [(line, INK, size) for line in _wrap(shot.prompt, size, side)]
    lines += [(line, FAINT, size - 3) for line in _wrap(shot.saw, size - 3, side)]
    return lines, sum(points + LEADING for _, _, points in lines)


def _cell(
    shot: Shot, side: int, lines: list[tuple[str, Colour, int]], text_height: int
) -> Image.Image:
    bars = [("subject", shot.subject_score, TEAL), ("class", shot.class_score, PLUM)]
    measured = [(name, value, colour) for name, value, colour in bars if value is not None]
    height = side + 14 + text_height + (8 + 24 * len(measured)) + 14
    cell = Image.new("RGB", (side, height), PAPER)
    with Image.open(shot.path) as picture:
        _paste_rounded(cell, picture.convert("RGB"), side)
    draw = ImageDraw.Draw(cell)
    top = side + 14
    for text, colour, points in lines:
        draw.text((0, top), text, colour, _font(points))
        top += points + LEADING
    for k, (name, value, colour) in enumerate(measured):
        _bar(draw, side + 14 + text_height + 8 + 24 * k, side, name, value, colour)
    return cell


def _paste_rounded(cell: Image.Image, picture: Image.Image, side: int) -> None:
    big = side * SMOOTH
    radius = big // 14
    mask = Image.new("L", (big, big))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, big - 1, big - 1), radius, 255)
    frame = Image.new("L", (big, big))
    ImageDraw.Draw(frame).rounded_rectangle(
        (0, 0, big - 1, big - 1), radius, outline=255, width=3 * SMOOTH
    )
    picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    cell.paste(picture, (0, 0), mask.resize((side, side), Image.Resampling.BOX))
    cell.paste(INK, (0, 0, side, side), frame.resize((side, side), Image.Resampling.BOX))


def _bar(
    draw: ImageDraw.ImageDraw,
    top: int,
    width: int,
    name: str,
    value: float,
    colour: Colour,
) -> None:
    left, right = 64, width - 48
    draw.text((0, top), name, FAINT, _font(16))
    draw.rounded_rectangle((left, top + 6, right, top + 16), 5, TRACK)
    end = left + round((right - left) * min(max(value, 0.0), 1.0))
    if end > left + 5:
        draw.rounded_rectangle((left, top + 6, end, top + 16), 5, colour)
    draw.text((width, top), f"{value:.2f}", INK, _font(16), anchor="ra")


def _wrap(text: str, size: int, width: int) -> list[str]:
    font = _font(size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
