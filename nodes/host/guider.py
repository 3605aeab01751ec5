"""Core's GUIDER with `GuidanceOptions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ...shared.errors import UserError

if TYPE_CHECKING:
    from ...diffusion.sample.guidance import GuidanceOptions


class Guider(comfy.samplers.CFGGuider):
    """Core's CFGGuider for any MODEL, with `GuidanceOptions`."""

    def __init__(self, model: ModelPatcher, guidance: float, options: GuidanceOptions) -> None:
        super().__init__(model)
        self.set_cfg(guidance)
        self.options = options

    def sample(self, noise: Any, latent_image: Any, *rest: Any, **named: Any) -> Any:
        """Sample as core does; raises UserError when the latents contain NaN or infinite values."""
        parts = latent_image.unbind() if latent_image.is_nested else [latent_image]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise UserError(
                "The latent image contains NaN or infinite values: check the node that made it."
            )
        return super().sample(noise, latent_image, *rest, **named)

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        """Return the denoised latents; `timestep` holds the noise levels (sigmas) [B]."""
        sampling, sigma = self.inner_model.model_sampling, float(timestep.flatten()[0])
        options = dict(model_options or {})
        sigmas = options["transformer_options"]["sample_sigmas"]
        if int((sigmas > sigma * (1 + 1e-5)).sum()) < self.options.zero_init_steps:
            return _zero_init_prediction(sampling, timestep, x)
        scale = self.options.scale_at(self.cfg, _progress_at(sampling, sigma))
        if self.options.rescale and scale != 1:
            # The denoised latents are linear in the model's output. Subtracted from those at the
            # output 0, they give the output up to a factor that both predictions share.
            at_zero = sampling.calculate_denoised(timestep, torch.zeros_like(x), x)

            def combine(prediction: dict[str, Any]) -> torch.Tensor:
                negative = at_zero - prediction["uncond_denoised"]
                positive = at_zero - prediction["cond_denoised"]
                guided = self.options.combine(negative, positive, scale)
                return prediction["input"] - at_zero + guided

            options["sampler_cfg_function"] = combine
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, negative, positive, scale, options, seed
        )


def _progress_at(sampling: Any, sigma: float) -> float:
    """Return the progress, 0 (pure noise) to 1, of a sigma: the inverse of `percent_to_sigma`."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if sampling.percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return low


def _zero_init_prediction(sampling: Any, sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the denoised latents for a velocity of zero, in flow and in diffusion models."""
    if isinstance(sampling, comfy.model_sampling.EPS):
        variance = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
        return x * sampling.sigma_data**2 / (variance + sampling.sigma_data**2)
    return sampling.calculate_denoised(sigma, torch.zeros_like(x), x)
