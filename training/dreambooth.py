"""The DreamBooth objective (Ruiz et al. 2022, "DreamBooth", eq. 2) and what may weigh its terms."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from ..errors import MendableError


def noising(scheduler_config: dict) -> DDPMScheduler:
    """Return the forward process that a model's scheduler configuration describes.

    Raises MendableError when the model predicts neither epsilon nor v.
    """
    scheduler = DDPMScheduler.from_config(scheduler_config)
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise MendableError(
            f'This model predicts "{kind}": choose a base model that predicts epsilon or v.'
        )
    return scheduler


def target(
    scheduler: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return what the model should predict, [B,C,h,w]: the noise, or the velocity.

    v = alpha_t * noise - sigma_t * latents (Salimans & Ho 2022, eq. in appendix D).
    """
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return scheduler.get_velocity(latents, noise, timesteps)


def min_snr_weights(
    scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Return each row's weight [B], so that none counts more than one of SNR `gamma` would.

    min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v (Hang et al. 2023,
    "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4).
    """
    snr = compute_snr(scheduler, timesteps)
    velocity = scheduler.config.prediction_type == "v_prediction"
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def dreambooth_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    subjects: int,
    prior_weight: float,
    *,
    rows: torch.Tensor | None = None,
    cells: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of a batch whose first `subjects` rows show the subject, the rest the class.

    E[w_t |x_hat - x|^2 + lambda w_t' |x_hat_pr - x_pr|^2], where the weight w_t is the one that
    goes with what the model predicts: SNR for epsilon, SNR + 1 for v. Means run over rows and
    elements; `prediction` and `target` are [B,C,h,w], the loss is a float32 scalar.

    `rows` [B] are further weights of the rows. `cells` [B,1,h,w] are weights within each row, whose
    own mean is divided by, so that a small subject counts as much as a large one.
    """
    squares = (prediction.float() - target.float()).square()
    if cells is not None:
        squares = squares * (cells / cells.mean((1, 2, 3), keepdim=True))
    error = squares.flatten(1).mean(1)
    if rows is not None:
        error = error * rows
    loss = error[:subjects].mean()
    if len(error) > subjects:
        loss = loss + prior_weight * error[subjects:].mean()
    return loss
