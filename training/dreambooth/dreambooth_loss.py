"""The DreamBooth objective (Ruiz et al. 2022, "DreamBooth", eq. 2)."""

from __future__ import annotations

import torch


def sample_losses(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return each sample's weighted mean squared error, [B] float32, of tensors [B,C,h,w].

    `weights` [B] multiply the samples' losses. `mask` [B,1,h,w] weights the latent cells and is
    divided by its mean over each sample, so a small subject counts as much as a large one.
    """
    squares = (prediction.float() - target.float()).square()
    if mask is not None:
        squares = squares * (mask / mask.mean((1, 2, 3), keepdim=True))
    losses = squares.flatten(1).mean(1)
    return losses if weights is None else losses * weights


def dreambooth_loss(losses: torch.Tensor, subjects: int, prior_weight: float) -> torch.Tensor:
    """Return the loss of samples' losses [B]: first `subjects` of the subject, then of the class.

    E[w_t |x_hat - x|^2 + lambda w_t' |x_hat_pr - x_pr|^2], both terms as means over samples. The
    weight w_t follows from the prediction type: SNR for epsilon, SNR + 1 for v.
    """
    loss = losses[:subjects].mean()
    if len(losses) > subjects:
        loss = loss + prior_weight * losses[subjects:].mean()
    return loss
