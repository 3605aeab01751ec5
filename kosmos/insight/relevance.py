"""Relevance of positions of a sequence for one another, from attention weights.

`weights` are those of a decoder's layers in order, each [N,H,T,T] (rows attend to columns, rows sum
to 1); results are [N,T,T], the relevance of each column for each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_over_heads(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean over the heads of each layer."""
    return [layer.float().mean(1) for layer in weights]


def rollout(weights: Sequence[Tensor]) -> Tensor:
    """Return the attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928, section 3).

    Heads are averaged, and the residual connection counts for half of each layer's output.
    """
    total = _identity(weights)
    for layer in weights:
        total = (0.5 * layer.float().mean(1) + 0.5 * _identity(weights)) @ total
    return total


def gradient_relevance(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return the relevance for a score (Chefer et al. 2021, arXiv:2103.15679, equations 5, 6).

    `gradients` are those of the score with respect to the weights. Only attention with a positive
    contribution to the score counts.
    """
    total = _identity(weights)
    for layer, gradient in zip(weights, gradients, strict=True):
        total = total + positive_contribution(layer, gradient) @ total
    return total


def positive_contribution(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of weights * gradient, averaged over heads, [...,R,C]."""
    return (weights.float() * gradient.float()).clamp_min(0).mean(-3)


def _identity(weights: Sequence[Tensor]) -> Tensor:
    return torch.eye(weights[0].shape[-1], device=weights[0].device)
