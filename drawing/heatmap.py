"""Numbers as colours."""

from __future__ import annotations

import torch
from PIL import ImageColor
from torch import Tensor

VIRIDIS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
"""From low to high; its lightness rises evenly, so it reads in grey and to the colour-blind."""


def apply_colormap(values: Tensor) -> Tensor:
    """Return float32 [...,3] in 0..1 for values [...] in 0..1, those outside being cut off."""
    stops = torch.tensor([ImageColor.getrgb(stop) for stop in VIRIDIS]) / 255
    place = values.float().clamp(0, 1) * (len(stops) - 1)
    below = place.floor().long().clamp_max(len(stops) - 2)
    part = (place - below).unsqueeze(-1)
    return stops[below] * (1 - part) + stops[below + 1] * part


def spread(values: Tensor, bounds: tuple[float, float] | None = None) -> Tensor:
    """Stretch values so that 0 stands for the lowest and 1 for the highest, float32.

    `bounds` are these two, if they are not to be those of the values themselves. Where both are
    equal all becomes 0.
    """
    values = values.float()
    low, high = bounds or (float(values.min()), float(values.max()))
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
