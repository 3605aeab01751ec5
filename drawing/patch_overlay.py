"""Draw maps over patches, as colours on the image and as masks."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from ..shared.images import Images
from .caption_strip import TextRun, draw_captioned
from .heatmap import VIRIDIS, apply_colormap, min_max_scale

OPACITY = (0.25, 0.8)
"""Of the colours where a map is lowest, and where it is highest."""


def grid_mask(
    grid: Tensor, height: int, width: int, bounds: tuple[float, float] | None = None
) -> Tensor:
    """Return a map [G,G] as a mask, float32 [height,width], 0 where lowest, 1 where highest.

    Interpolates bilinearly. `bounds` (low, high) let several maps share a scale. A constant map
    becomes 0.
    """
    smooth = interpolate(grid.float()[None, None], (height, width), mode="bilinear")
    return min_max_scale(smooth[0, 0], bounds)


def upscale_nearest(colours: Tensor, height: int, width: int) -> Tensor:
    """Enlarge colours of patches [B,G,G,3] to images [B,height,width,3], a block per patch."""
    return interpolate(colours.movedim(-1, 1), (height, width), mode="nearest").movedim(1, -1)


def highlight(caption: str, start: int, end: int) -> list[TextRun]:
    """Return a caption in runs, `caption[start:end]` marked in the colour of a map's maximum."""
    return [
        TextRun(caption[:start], None),
        TextRun(caption[start:end], VIRIDIS[-1]),
        TextRun(caption[end:], None),
    ]


def draw_overlay(
    images: Images,
    grids: Sequence[Tensor],
    captions: Sequence[Sequence[TextRun]],
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Draw maps on images, with a caption below each: float32 [N,H',W',3] in 0..1 on the CPU.

    `images` are N images of one size as in `to_rgb`, `grids` are N maps [G,G], and each caption is
    given in runs. `bounds` are as in `grid_mask`, sizes as in `draw_captioned`.
    """

    def draw(
        index: int, sheet: Image.Image, size: tuple[int, int], _: ImageFont.FreeTypeFont
    ) -> None:
        width, height = size
        mask = grid_mask(grids[index], height, width, bounds)
        low, high = OPACITY
        opacity = Image.fromarray((255 * (low + (high - low) * mask)).byte().numpy())
        colours = Image.fromarray(apply_colormap(mask).mul(255).byte().numpy())
        sheet.paste(colours, (0, 0), opacity)

    return draw_captioned(images, captions, draw)
