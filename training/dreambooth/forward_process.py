"""The forward process that adds noise to latents, and the prediction target: DDPM or flow."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from ...diffusion.sample.schedulers import is_flow
from ...shared.errors import UserError
from ..denoiser.denoiser import NO_MIN_SNR


class DiffusionForwardProcess:
    """The forward process of models that predict epsilon or v (Ho et al. 2020, DDPM).

    `num_timesteps` is its length; `indices` are uniform in 0..num_timesteps - 1, int64 [B].
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._scheduler = DDPMScheduler.from_config(config)
        self.num_timesteps = int(self._scheduler.config.num_train_timesteps)
        prediction_type = self._scheduler.config.prediction_type
        if prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f'This model predicts "{prediction_type}": choose a base model that predicts '
                "epsilon, v or a flow."
            )
        self._velocity = prediction_type == "v_prediction"

    def timesteps(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the model's timestep input, [B]."""
        return indices

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return alpha_t * latents + sigma_t * noise, [B,C,h,w]."""
        return self._scheduler.add_noise(latents, noise, indices)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return the prediction target, [B,C,h,w]: the noise, or the velocity.

        v = alpha_t * noise - sigma_t * latents (Salimans & Ho 2022, eq. in appendix D).
        """
        return self._scheduler.get_velocity(latents, noise, indices) if self._velocity else noise

    def min_snr_weights(self, indices: torch.Tensor, gamma: float) -> torch.Tensor:
        """Return each sample's loss weight [B], which caps the effective weight at SNR `gamma`.

        min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v (Hang et al. 2023,
        "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4).
        """
        snr = compute_snr(self._scheduler, indices)
        return snr.clamp(max=gamma) / (snr + 1 if self._velocity else snr)


class FlowMatchingForwardProcess:
    """The forward process of flow matching models (Lipman et al. 2023, Liu et al. 2023).

    `num_timesteps` is its length. Uniform `indices`, int64 [B], are mapped to logit-normal
    timesteps (Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1), to which the
    scheduler's shift is applied.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        self.num_timesteps = int(scheduler.config.num_train_timesteps)
        uniform = (torch.arange(self.num_timesteps, dtype=torch.float64) + 0.5) / self.num_timesteps
        mapped = (torch.special.ndtri(uniform).sigmoid() * self.num_timesteps).long()
        self._timesteps = scheduler.timesteps[mapped].float()
        self._sigmas = scheduler.sigmas[mapped].float()

    def timesteps(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the model's timestep input, [B]."""
        return self._timesteps.to(indices.device)[indices]

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return (1 - sigma) * latents + sigma * noise, [B,C,h,w]."""
        sigmas = self._sigmas.to(indices.device)[indices].view(-1, 1, 1, 1)
        return torch.lerp(latents, noise, sigmas)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return the prediction target, [B,C,h,w]: noise - latents."""
        return noise - latents

    def min_snr_weights(self, indices: torch.Tensor, gamma: float) -> torch.Tensor:
        """Raise UserError: min-SNR weights are defined for epsilon and v only."""
        raise UserError(NO_MIN_SNR)


def forward_process_for(
    config: dict[str, Any],
) -> DiffusionForwardProcess | FlowMatchingForwardProcess:
    """Return the forward process of a model with a scheduler configuration.

    Raises UserError when the model predicts neither epsilon nor v nor a flow.
    """
    return (
        FlowMatchingForwardProcess(config) if is_flow(config) else DiffusionForwardProcess(config)
    )
