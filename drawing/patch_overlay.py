"""Maps over patches, laid on the picture as colours and as masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from ..shared.images import check_images, to_pil, to_tensor
from .boxes import SMALLEST, SMALLEST_LETTERS
from .caption_strip import PAPER, CaptionStrip, TextRun
from .heatmap import apply_colormap, spread

MARK = "#FDE725"
"""Behind the words that a map belongs to: the colour of its peak."""

COVER = (0.25, 0.8)
"""How opaque colours are where a map is lowest, and where it is highest."""


def grid_mask(
    grid: Tensor, height: int, width: int, bounds: tuple[float, float] | None = None
) -> Tensor:
    """Stretch a map [G,G] over a picture: float32 [height,width], 0 where lowest, 1 where highest.

    Patches are blended into one another linearly. `bounds` are the lowest and the highest value
    where several maps share a scale. A map that is the same everywhere becomes 0.
    """
    smooth = interpolate(grid.float()[None, None], (height, width), mode="bilinear")
    return spread(smooth[0, 0], bounds)


def blocks(colours: Tensor, height: int, width: int) -> Tensor:
    """Enlarge colours [B,G,G,3] to pictures [B,height,width,3], each patch a plain block."""
    return interpolate(colours.movedim(-1, 1), (height, width), mode="nearest").movedim(1, -1)


def marked(caption: str, start: int, end: int) -> list[TextRun]:
    """Return a caption in pieces, `caption[start:end]` marked."""
    return [
        TextRun(caption[:start], None),
        TextRun(caption[start:end], MARK),
        TextRun(caption[end:], None),
    ]


def overlay(
    images: Sequence[Tensor],
    grids: Sequence[Tensor],
    texts: Sequence[Sequence[TextRun]],
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Lay maps on pictures, with a text under each: float32 [N,H',W',3] in 0..1 on the CPU.

    `images` are N pictures [H,W,C] of one size as in `to_rgb`, `grids` are N maps [G,G], and each
    text comes in pieces, some marked. `bounds` are as in `grid_mask`. Pictures are enlarged by a
    whole number until the longer side has 512 pixels, and all strips are as high as the longest
    text needs.
    """
    check_images(torch.stack(list(images)))
    height, width = images[0].shape[:2]
    factor = math.ceil(SMALLEST / max(height, width))
    height, width = height * factor, width * factor
    sheet_width = max(width, height // 2)
    letters = max(round((height + width) / 64), SMALLEST_LETTERS)
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(letters))
    strips = [CaptionStrip(text, sheet_width, font) for text in texts]
    size = (sheet_width, height + max(strip.height for strip in strips))
    drawn = torch.empty(len(strips), size[1], size[0], 3)
    for k, (image, grid, strip) in enumerate(zip(images, grids, strips, strict=True)):
        picture = to_pil(image)
        if factor > 1:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        heat = grid_mask(grid, height, width, bounds)
        low, high = COVER
        cover = Image.fromarray((255 * (low + (high - low) * heat)).byte().numpy())
        colours = Image.fromarray(apply_colormap(heat).mul(255).byte().numpy())
        sheet = Image.new("RGB", size, PAPER)
        sheet.paste(Image.composite(colours, picture, cover))
        strip.draw(ImageDraw.Draw(sheet), height)
        drawn[k] = to_tensor(sheet)
    return drawn
