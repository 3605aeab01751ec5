"""An exponential moving average of a model's weights, with a warm-up."""

from __future__ import annotations

import torch
from torch import nn


class Average:
    """Holds the averaged weights; the rate rises from 0 to ``decay`` as steps go by."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights after one more step into the average."""
        self.steps += 1
        rate = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, p in model.named_parameters():
            self.weights[name].lerp_(p, 1 - rate)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averaged ones; call again to change back."""
        for name, p in model.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.weights[name])
            self.weights[name] = kept
