"""Numbers as colours."""

from __future__ import annotations

import torch
from PIL import ImageColor
from torch import Tensor

VIRIDIS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725")
"""From low to high; its lightness rises evenly, so it reads in grey and to the colour-blind."""


def colour(values: Tensor) -> Tensor:
    """Return float32 [...,3] in 0..1 for values [...] in 0..1, those outside being cut off."""
    stops = torch.tensor([ImageColor.getrgb(stop) for stop in VIRIDIS]) / 255
    place = values.float().clamp(0, 1) * (len(stops) - 1)
    below = place.floor().long().clamp_max(len(stops) - 2)
    part = (place - below).unsqueeze(-1)
    return stops[below] * (1 - part) + stops[below + 1] * part


def spread(values: Tensor) -> Tensor:
    """Stretch values so that the lowest becomes 0 and the highest 1; equal ones all become 0."""
    values = values.float()
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
