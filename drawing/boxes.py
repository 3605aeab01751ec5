"""Draw what was seen: boxes with labels, the caption underneath, and masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..kosmos.box_conversion import window
from ..kosmos.grounding import Box, GroundedText, Phrase
from ..shared.images import check_images, to_pil, to_tensor
from .caption_strip import PAPER, CaptionStrip, TextRun, ink_on
from .labels import Rectangle, place_labels, shorten

SMALLEST = 512
"""A picture is enlarged until its longer side has at least so many pixels."""

SMALLEST_LETTERS = 14
"""Pixels."""

WIDEST_LABEL = 0.6
"""Of the sheet's width; what a label has no room for stands in the caption."""

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""One colour a phrase: those of Okabe and Ito, which the colour-blind tell apart as well."""


def draw_boxes(image: Tensor, grounded: GroundedText) -> Tensor:
    """Return one picture, float [H,W,C], with its boxes and caption: see `draw_boxes_batch`."""
    return draw_boxes_batch(image[None], [grounded])[0]


def draw_boxes_batch(images: Tensor, pictures: Sequence[GroundedText]) -> Tensor:
    """Return a batch with boxes and labels drawn on it, and captions underneath.

    `images` is float [B,H,W,C] in 0..1 with 1, 3 or 4 channels, and `pictures` has B entries. The
    result is float32 [B,H',W',3] in 0..1 on the CPU: pictures are enlarged by a whole number until
    the longer side has 512 pixels, very narrow ones get a margin, and all strips are as high as the
    longest caption needs. Lines and letters grow with the picture. Raises UserError for an
    empty batch.
    """
    check_images(images)
    height, width = images.shape[1:3]
    longest = max(height, width)
    factor = math.ceil(SMALLEST / longest) if longest < SMALLEST else 1
    height, width, longest = height * factor, width * factor, longest * factor
    sheet_width = max(width, longest // 2)
    letters = max(round((height + width) / 64), SMALLEST_LETTERS)
    # Pillow's own font; one that is asked for by size can be scaled.
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(letters))

    strips = [CaptionStrip(_runs(grounded), sheet_width, font) for grounded in pictures]
    size = (sheet_width, height + max(strip.height for strip in strips))
    drawn = torch.empty(len(images), size[1], size[0], 3)
    for k, (image, grounded, strip) in enumerate(zip(images, pictures, strips, strict=True)):
        picture = to_pil(image)
        if factor > 1:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        sheet = Image.new("RGB", size, PAPER)
        sheet.paste(picture)
        _draw_boxes(sheet, (width, height), grounded, font)
        strip.draw(ImageDraw.Draw(sheet), height)
        drawn[k] = to_tensor(sheet)
    return drawn


def boxes_to_mask(grounded: GroundedText, height: int, width: int) -> Tensor:
    """Return float32 [height,width]: 1 in each pixel that a box touches, 0 elsewhere."""
    return boxes_to_cover_mask(grounded.boxes, height, width)


def boxes_to_cover_mask(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Return float32 [height,width]: 1 in each pixel that one of the boxes touches, 0 elsewhere."""
    covered = torch.zeros(height, width)
    for box in boxes:
        left, top, right, bottom = window(box, width, height)
        covered[top:bottom, left:right] = 1
    return covered


def _pixels(box: Box, size: tuple[int, int]) -> Rectangle:
    width, height = size
    return box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height


def _coloured(grounded: GroundedText) -> Iterator[tuple[Phrase, str]]:
    """Give the phrases that have boxes, each with its colour."""
    return zip((phrase for phrase in grounded.phrases if phrase.boxes), cycle(PALETTE))


def _runs(grounded: GroundedText) -> list[TextRun]:
    """Return the caption in pieces, those of phrases with boxes in the colour of the boxes."""
    runs: list[TextRun] = []
    position = 0
    for phrase, colour in _coloured(grounded):
        runs.append(TextRun(grounded.caption[position : phrase.start], None))
        runs.append(TextRun(phrase.text, colour))
        position = phrase.end
    return [*runs, TextRun(grounded.caption[position:], None)]


def _draw_boxes(
    sheet: Image.Image,
    size: tuple[int, int],
    grounded: GroundedText,
    font: ImageFont.FreeTypeFont,
) -> None:
    pen = ImageDraw.Draw(sheet)
    line = max(2, round(font.size / 5))
    limit = (sheet.width, size[1])
    rectangles, texts, fills = [], [], []
    for phrase, colour in _coloured(grounded):
        for box in phrase.boxes:
            rectangles.append(_pixels(box, size))
            texts.append(shorten(phrase.text, font, limit[0] * WIDEST_LABEL))
            fills.append(colour)
    for rectangle, fill in zip(rectangles, fills, strict=True):
        _outline(pen, rectangle, fill, line)

    letters = sum(font.getmetrics())
    sizes = [(font.getlength(text) + 2 * line, letters + line) for text in texts]
    for text, fill, spot in zip(texts, fills, place_labels(rectangles, sizes, limit), strict=True):
        if text and spot is not None:
            pen.rectangle(spot, fill=fill)
            pen.text((spot[0] + line, spot[1] + line // 2), text, fill=ink_on(fill), font=font)


def _outline(pen: ImageDraw.ImageDraw, rectangle: Rectangle, colour: str, line: int) -> None:
    """Draw a line with a thin dark rim, seen on a background of its own colour too."""
    rim = max(1, line // 3)
    left, top, right, bottom = (round(edge) for edge in rectangle)
    right, bottom = max(right - 1, left), max(bottom - 1, top)
    pen.rectangle((left, top, right, bottom), outline="#000000", width=line + 2 * rim)
    if right - left > 2 * rim and bottom - top > 2 * rim:
        inside = (left + rim, top + rim, right - rim, bottom - rim)
        pen.rectangle(inside, outline=colour, width=line)
