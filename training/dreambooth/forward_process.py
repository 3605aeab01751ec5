"""How pictures become noise, and what a model is to predict of them: its scheduler says."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from ...diffusion.sample.schedulers import is_flow
from ...shared.errors import UserError


class DiffusionForwardProcess:
    """The forward process of models that predict epsilon or v.

    Its `length` is the number of timesteps; a `draw` is one of them, uniform.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._scheduler = DDPMScheduler.from_config(config)
        self.length = int(self._scheduler.config.num_train_timesteps)
        kind = self._scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise UserError(
                f'This model predicts "{kind}": choose a base model that predicts epsilon, v or a '
                "flow."
            )
        self._velocity = kind == "v_prediction"

    def timesteps(self, draws: torch.Tensor) -> torch.Tensor:
        """Return what the model is told, [B]."""
        return draws

    def noisy(
        self, latents: torch.Tensor, noise: torch.Tensor, draws: torch.Tensor
    ) -> torch.Tensor:
        """Return alpha_t * latents + sigma_t * noise, [B,C,h,w]."""
        return self._scheduler.add_noise(latents, noise, draws)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, draws: torch.Tensor
    ) -> torch.Tensor:
        """Return what the model should predict, [B,C,h,w]: the noise, or the velocity.

        v = alpha_t * noise - sigma_t * latents (Salimans & Ho 2022, eq. in appendix D).
        """
        return self._scheduler.get_velocity(latents, noise, draws) if self._velocity else noise

    def min_snr_weights(self, draws: torch.Tensor, gamma: float) -> torch.Tensor:
        """Return each row's weight [B], so that none counts more than one of SNR `gamma` would.

        min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v (Hang et al. 2023,
        "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4).
        """
        snr = compute_snr(self._scheduler, draws)
        return snr.clamp(max=gamma) / (snr + 1 if self._velocity else snr)


class FlowMatchingForwardProcess:
    """The straight path of models that predict a flow (Lipman et al. 2023, Liu et al. 2023).

    Its `length` is the number of timesteps. Of uniform `draws` it makes logit-normal ones, which
    come most often in the middle of the path (Esser et al. 2024, "Scaling Rectified Flow
    Transformers", section 3.1); the scheduler's own shift goes on top.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        self.length = int(scheduler.config.num_train_timesteps)
        middle = (torch.arange(self.length, dtype=torch.float64) + 0.5) / self.length
        places = (torch.special.ndtri(middle).sigmoid() * self.length).long()
        self._timesteps = scheduler.timesteps[places].float()
        self._sigmas = scheduler.sigmas[places].float()

    def timesteps(self, draws: torch.Tensor) -> torch.Tensor:
        """Return what the model is told, [B]."""
        return self._timesteps.to(draws.device)[draws]

    def noisy(
        self, latents: torch.Tensor, noise: torch.Tensor, draws: torch.Tensor
    ) -> torch.Tensor:
        """Return (1 - sigma) * latents + sigma * noise, [B,C,h,w]."""
        return torch.lerp(latents, noise, self._sigmas.to(draws.device)[draws].view(-1, 1, 1, 1))

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, draws: torch.Tensor
    ) -> torch.Tensor:
        """Return what the model should predict, [B,C,h,w]: noise - latents."""
        return noise - latents

    def min_snr_weights(self, draws: torch.Tensor, gamma: float) -> torch.Tensor:
        """Raise UserError: a flow has nearly clean pictures seldom enough by itself."""
        raise UserError(
            "min_snr_gamma is for models that predict epsilon or v, and this one predicts a flow: "
            "set it to 0."
        )


def forward_process_for(
    config: dict[str, Any],
) -> DiffusionForwardProcess | FlowMatchingForwardProcess:
    """Return the process that a model's scheduler configuration describes.

    Raises UserError when the model predicts neither epsilon nor v nor a flow.
    """
    return (
        FlowMatchingForwardProcess(config) if is_flow(config) else DiffusionForwardProcess(config)
    )
