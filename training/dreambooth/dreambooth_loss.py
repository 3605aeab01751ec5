"""The DreamBooth objective (Ruiz et al. 2022, "DreamBooth", eq. 2) and what may weigh its terms."""

from __future__ import annotations

import torch


def errors(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    cells: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return each row's weighted mean square, [B] float32, of tensors [B,C,h,w].

    `rows` [B] are weights of the rows. `cells` [B,1,h,w] are weights within each row, whose own
    mean is divided by, so that a small subject counts as much as a large one.
    """
    squares = (prediction.float() - target.float()).square()
    if cells is not None:
        squares = squares * (cells / cells.mean((1, 2, 3), keepdim=True))
    error = squares.flatten(1).mean(1)
    return error if rows is None else error * rows


def dreambooth_loss(error: torch.Tensor, subjects: int, prior_weight: float) -> torch.Tensor:
    """Return the loss of rows' errors [B], the first `subjects` of the subject, the rest the class.

    E[w_t |x_hat - x|^2 + lambda w_t' |x_hat_pr - x_pr|^2], where the weight w_t is the one that
    goes with what the model predicts: SNR for epsilon, SNR + 1 for v. Means run over rows.
    """
    loss = error[:subjects].mean()
    if len(error) > subjects:
        loss = loss + prior_weight * error[subjects:].mean()
    return loss
