"""A pen that draws a thing in a unit square, with an outline and a pattern."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from .individual import RGB

INK: RGB = (44, 38, 66)
Point = tuple[float, float]


class Pen:
    """Draws on a transparent square layer in unit coordinates (x right, y down, both 0..1).

    `body` shapes share one dark outline, so that overlapping ones read as a single silhouette;
    `mark` shapes are details drawn over them.
    """

    def __init__(self, width: int, height: int, ink_width: float, flip: bool) -> None:
        self.size = (width, height)
        self.ink_width = ink_width
        self.flip = flip
        self.layer = Image.new("RGBA", self.size)
        self._draw = ImageDraw.Draw(self.layer)
        self._main = Image.new("L", self.size)
        self._pending: list[tuple[str, list[Point], RGB, bool]] = []

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        width, height = self.size
        pad = 0.04
        scale = 1 - 2 * pad
        return [
            (
                ((1 - x if self.flip else x) * scale + pad) * width,
                (y * scale + pad) * height,
            )
            for x, y in points
        ]

    @staticmethod
    def _ordered(points: list[Point]) -> list[Point]:
        (x0, y0), (x1, y1) = points
        return [(min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))]

    def polygon(self, points: Sequence[Point], fill: RGB, main: bool = False) -> None:
        """Add a polygon to the silhouette; `main` shapes take the individual's pattern."""
        self._pending.append(("polygon", self._pixels(points), fill, main))

    def ellipse(
        self, x0: float, y0: float, x1: float, y1: float, fill: RGB, main: bool = False
    ) -> None:
        """Add an ellipse, given by its bounding box, to the silhouette."""
        box = self._ordered(self._pixels([(x0, y0), (x1, y1)]))
        self._pending.append(("ellipse", box, fill, main))

    def draw_pending(self) -> None:
        """Draw the pending shapes: one outline around them all, then each in its colour."""
        grow = self.ink_width
        for shape, points, _, _ in self._pending:
            if shape == "ellipse":
                (x0, y0), (x1, y1) = points
                self._draw.ellipse((x0 - grow, y0 - grow, x1 + grow, y1 + grow), fill=INK)
            else:
                self._draw.polygon(points, fill=INK)
                loop = [*points, points[0], points[1]]
                self._draw.line(loop, fill=INK, width=round(2 * grow), joint="curve")
        main = ImageDraw.Draw(self._main)
        for shape, points, fill, is_main in self._pending:
            flat = [c for p in points for c in p] if shape == "ellipse" else points
            getattr(self._draw, shape)(flat, fill=fill)
            getattr(main, shape)(flat, fill=255 if is_main else 0)
        self._pending.clear()

    def fill_main(self, pattern: str, fill: RGB) -> None:
        """Draw spots, stripes or the lower half ("below") onto the main shapes."""
        width, height = self.size
        mask = Image.new("L", self.size)
        draw = ImageDraw.Draw(mask)
        if pattern == "spotted":
            radius = 0.068 * width
            for row in range(6):
                for column in range(5):
                    x = (column + (row % 2) / 2) * width / 4
                    y = (row + 0.3) * height / 5
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        elif pattern == "striped":
            for row in range(6):
                y = (row + 0.15) * height / 5.5
                draw.rectangle((0, y, width, y + height * 0.075), fill=255)
        elif pattern == "below":
            draw.rectangle((0, height * 0.56, width, height), fill=255)
        self.layer.paste(fill, mask=ImageChops.multiply(mask, self._main))

    def mark(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """Draw an ellipse, given by its bounding box, over the drawn shapes."""
        (a, b), (c, d) = self._ordered(self._pixels([(x0, y0), (x1, y1)]))
        self._draw.ellipse((a, b, c, d), fill=fill)

    def line(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """Draw a line over the drawn shapes; `width` in units of the thing's width."""
        pixels = self._pixels(points)
        self._draw.line(pixels, fill=fill, width=max(1, round(width * self.size[0])), joint="curve")

    def patch(self, points: Sequence[Point], fill: RGB) -> None:
        """Draw a polygon over the drawn shapes."""
        self._draw.polygon(self._pixels(points), fill=fill)
