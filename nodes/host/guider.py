"""Core's GUIDER, with the pack's guidance."""

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
    """Core's guider for any MODEL, with a guidance that follows `GuidanceOptions`."""

    def __init__(self, model: ModelPatcher, guidance: float, options: GuidanceOptions) -> None:
        super().__init__(model)
        self.set_cfg(guidance)
        self.options = options

    def sample(self, noise: Any, latent_image: Any, *rest: Any, **named: Any) -> Any:
        """Sample as core's does, from latents that are numbers."""
        parts = latent_image.unbind() if latent_image.is_nested else [latent_image]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise UserError(
                "The latent image holds values that are not numbers: look at what made it."
            )
        return super().sample(noise, latent_image, *rest, **named)

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        """Return the denoised latents at a noise level, which core calls timestep: [B], sigmas."""
        sampling, sigma = self.inner_model.model_sampling, float(timestep.flatten()[0])
        changed = dict(model_options or {})
        levels = changed["transformer_options"]["sample_sigmas"]
        if int((levels > sigma * (1 + 1e-5)).sum()) < self.options.zero_init_steps:
            return _standstill(sampling, timestep, x)
        scale = self.options.scale_at(self.cfg, _progress(sampling, sigma))
        if self.options.rescale and scale != 1:
            # Denoised latents at an output of nothing: what is missing to them is the output, but
            # for a factor that both predictions share.
            nothing = sampling.calculate_denoised(timestep, torch.zeros_like(x), x)

            def combine(prediction: dict[str, Any]) -> torch.Tensor:
                negative = nothing - prediction["uncond_denoised"]
                positive = nothing - prediction["cond_denoised"]
                guided = self.options.combine(negative, positive, scale)
                return prediction["input"] - nothing + guided

            changed["sampler_cfg_function"] = combine
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, negative, positive, scale, changed, seed
        )


def _progress(sampling: Any, sigma: float) -> float:
    """Invert core's `percent_to_sigma`, which falls from pure noise at 0 to nothing at 1."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if sampling.percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return low


def _standstill(sampling: Any, sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return what is denoised when the velocity is zero, in flow and in diffusion models."""
    if isinstance(sampling, comfy.model_sampling.EPS):
        variance = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
        return x * sampling.sigma_data**2 / (variance + sampling.sigma_data**2)
    return sampling.calculate_denoised(sigma, torch.zeros_like(x), x)
