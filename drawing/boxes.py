"""Draw grounded captions: boxes with labels, the caption below, and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..kosmos.box_conversion import window
from ..kosmos.grounding import Box, GroundedText, Phrase
from .caption_strip import TextRun, draw_captioned
from .labels import Rectangle, place_labels, shorten
from .style import text_colour_on

MAX_LABEL_WIDTH = 0.6
"""As a share of the sheet's width; a longer label is shortened, as the caption has it in full."""

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""One colour per phrase: those of Okabe and Ito, which colour-blind people can tell apart too."""


def draw_boxes(image: Tensor, grounded: GroundedText) -> Tensor:
    """Return one image, float [H,W,C], with its boxes and caption: see `draw_boxes_batch`."""
    return draw_boxes_batch(image[None], [grounded])[0]


def draw_boxes_batch(images: Tensor, captions: Sequence[GroundedText]) -> Tensor:
    """Return a batch with boxes and labels drawn on it, and captions below.

    `images` is float [B,H,W,C] in 0..1 with 1, 3 or 4 channels, and `captions` has B entries. The
    result is float32 [B,H',W',3] in 0..1 on the CPU, sized as by `draw_captioned`; lines grow with
    the image. Raises UserError for an empty batch.
    """

    def draw(
        index: int, sheet: Image.Image, size: tuple[int, int], font: ImageFont.FreeTypeFont
    ) -> None:
        _draw_boxes(sheet, size, captions[index], font)

    return draw_captioned(images, [_runs(grounded) for grounded in captions], draw)


def boxes_to_mask(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Return float32 [height,width]: 1 in each pixel that one of the boxes touches, 0 elsewhere."""
    mask = torch.zeros(height, width)
    for box in boxes:
        left, top, right, bottom = window(box, width, height)
        mask[top:bottom, left:right] = 1
    return mask


def _with_colours(grounded: GroundedText) -> Iterator[tuple[Phrase, str]]:
    """Yield the phrases that have boxes, each with its colour."""
    return zip((phrase for phrase in grounded.phrases if phrase.boxes), cycle(PALETTE))


def _runs(grounded: GroundedText) -> list[TextRun]:
    """Return the caption in runs, phrases with boxes in the colour of their boxes."""
    runs: list[TextRun] = []
    position = 0
    for phrase, colour in _with_colours(grounded):
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
    (width, height), limit = size, (sheet.width, size[1])
    rectangles, texts, fills = [], [], []
    for phrase, colour in _with_colours(grounded):
        for box in phrase.boxes:
            rectangles.append((box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height))
            texts.append(shorten(phrase.text, font, limit[0] * MAX_LABEL_WIDTH))
            fills.append(colour)
    for rectangle, fill in zip(rectangles, fills, strict=True):
        _outline(pen, rectangle, fill, line)

    text_height = sum(font.getmetrics())
    sizes = [(font.getlength(text) + 2 * line, text_height + line) for text in texts]
    labels = place_labels(rectangles, sizes, limit)
    for text, fill, label in zip(texts, fills, labels, strict=True):
        if text and label is not None:
            pen.rectangle(label, fill=fill)
            position = (label[0] + line, label[1] + line // 2)
            pen.text(position, text, fill=text_colour_on(fill), font=font)


def _outline(pen: ImageDraw.ImageDraw, rectangle: Rectangle, colour: str, line: int) -> None:
    """Draw a line with a thin dark rim, visible on a background of its own colour too."""
    rim = max(1, line // 3)
    left, top, right, bottom = (round(edge) for edge in rectangle)
    right, bottom = max(right - 1, left), max(bottom - 1, top)
    pen.rectangle((left, top, right, bottom), outline="#000000", width=line + 2 * rim)
    if right - left > 2 * rim and bottom - top > 2 * rim:
        inside = (left + rim, top + rim, right - rim, bottom - rim)
        pen.rectangle(inside, outline=colour, width=line)
