"""Turn numbers into colours."""

from __future__ import annotations

import torch
from PIL import ImageColor
from torch import Tensor

VIRIDIS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
"""From low to high; lightness rises evenly, so it is readable in grey and for the colour-blind."""


def apply_colormap(values: Tensor) -> Tensor:
    """Return float32 [...,3] in 0..1 for values [...], clamped to 0..1."""
    stops = torch.tensor([ImageColor.getrgb(stop) for stop in VIRIDIS]) / 255
    position = values.float().clamp(0, 1) * (len(stops) - 1)
    lower = position.floor().long().clamp_max(len(stops) - 2)
    weight = (position - lower).unsqueeze(-1)
    return stops[lower] * (1 - weight) + stops[lower + 1] * weight


def min_max_scale(values: Tensor, bounds: tuple[float, float] | None = None) -> Tensor:
    """Scale values so that the lowest becomes 0 and the highest 1, float32.

    `bounds` (low, high) replace the lowest and the highest value. Where both are equal all
    becomes 0.
    """
    values = values.float()
    low, high = bounds or (float(values.min()), float(values.max()))
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
