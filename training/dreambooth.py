"""The DreamBooth objective (Ruiz et al. 2022, "DreamBooth", eq. 2)."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler

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


def dreambooth_loss(
    prediction: torch.Tensor, target: torch.Tensor, subjects: int, prior_weight: float
) -> torch.Tensor:
    """Return the loss of a batch whose first `subjects` rows show the subject, the rest the class.

    E[w_t |x_hat - x|^2 + lambda w_t' |x_hat_pr - x_pr|^2], where the weight w_t is the one that
    goes with what the model predicts: SNR for epsilon, SNR + 1 for v. Means run over rows and
    elements; `prediction` and `target` are [B,C,h,w], the loss is a float32 scalar.
    """
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    loss = error[:subjects].mean()
    if len(error) > subjects:
        loss = loss + prior_weight * error[subjects:].mean()
    return loss
