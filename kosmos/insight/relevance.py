"""From attention weights to relevance: how much each position of a sequence bears on others.

`weights` are a decoder's layers in order, each [W,H,T,T] (rows attend to columns, rows sum to 1)
for W copies of one sequence; results are [W,T,T], rows again bearing on columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_over_heads(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return for each layer the mean over its heads."""
    return [layer.float().mean(1) for layer in weights]


def rollout(weights: Sequence[Tensor]) -> Tensor:
    """Follow attention through the layers (Abnar & Zuidema 2020, arXiv:2005.00928, section 3).

    Heads are averaged, and half of each layer's output counts as coming past it, through the
    residual connection.
    """
    total = _identity(weights)
    for layer in weights:
        total = (0.5 * layer.float().mean(1) + 0.5 * _identity(weights)) @ total
    return total


def gradient_relevance(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Follow what raised a score (Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6).

    `gradients` are the score's, by the weights, of the same shapes. In each layer only attention
    that raised the score counts.
    """
    total = _identity(weights)
    for layer, gradient in zip(weights, gradients, strict=True):
        total = total + positive_contribution(layer, gradient) @ total
    return total


def positive_contribution(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of weights times gradient, [...,H,R,C], a mean over H heads."""
    return (weights.float() * gradient.float()).clamp_min(0).mean(-3)


def _identity(weights: Sequence[Tensor]) -> Tensor:
    return torch.eye(weights[0].shape[-1], device=weights[0].device)
