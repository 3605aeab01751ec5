"""One of ComfyUI's diffusion models, called as its samplers call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import torch

from .conditioning import Conditioning
from .weights_dtype import weights_dtype

IMAGE_MODELS = ("QwenImage", "Krea2", "JoyImage", "Anima", "CosmosT2IPredict2")
"""ComfyUI's image models whose latents have an axis of frames, as those of videos have."""

PREFIX = "model.diffusion_model."
"""What ComfyUI puts before the names of a diffusion model's weights in a checkpoint file."""


DISCRETE_SCHEDULES = {
    "epsilon": (comfy.model_sampling.EPS, False),
    "v": (comfy.model_sampling.V_PREDICTION, False),
    "v_zero_snr": (comfy.model_sampling.V_PREDICTION, True),
}
"""Prediction -> ComfyUI's class, and whether the noise schedule has zero terminal SNR."""


def discrete_schedule(model_config: Any, prediction: str) -> torch.nn.Module:
    """Return ComfyUI's noise schedule of a key of DISCRETE_SCHEDULES, as ModelSamplingDiscrete."""
    kind, zero_snr = DISCRETE_SCHEDULES[prediction]
    bases = (comfy.model_sampling.ModelSamplingDiscrete, kind)
    schedule: torch.nn.Module = type("Schedule", bases, {})(model_config, zsnr=zero_snr)
    return schedule


class CoreModel:
    """A `comfy.model_base.BaseModel`: its layers, noise schedule, latents and conditioning.

    Latents are [B,C,h,w], as `process_latent_in` scales them; models with an axis of frames see
    one frame. `sigmas` [N] are the noise levels of its schedule, rising.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers: torch.nn.Module = model.diffusion_model
        self.sampling: Any = model.model_sampling
        self.layers.requires_grad_(False)
        self._calculate_denoised = self.sampling.calculate_denoised
        # `apply_model` would lose digits of the output at small noise levels.
        self.sampling.calculate_denoised = lambda _sigma, output, _noisy: output

    @property
    def sigmas(self) -> torch.Tensor:
        """The noise levels, float32 [N]."""
        return self.sampling.sigmas

    @property
    def is_flow(self) -> bool:
        """Whether the model predicts a flow: noise - latents."""
        flows = (comfy.model_sampling.CONST, comfy.model_sampling.COSMOS_RFLOW)
        return isinstance(self.sampling, flows)

    @property
    def is_velocity(self) -> bool:
        """Whether the model predicts v."""
        return isinstance(self.sampling, comfy.model_sampling.V_PREDICTION)

    @contextmanager
    def other_layers(self, layers: torch.nn.Module) -> Iterator[None]:
        """Compute with another module in place of `layers` for the duration of a `with` block."""
        self.model.diffusion_model = layers
        try:
            yield
        finally:
            self.model.diffusion_model = self.layers

    def state_dict_for_saving(self, base: Path) -> dict[str, torch.Tensor]:
        """Return all weights by the keys of UNETLoader's files, in the precision of `base`."""
        dtype = weights_dtype(base) or torch.float16
        weights = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in self.layers.state_dict().items()
        }
        saved = self.model.model_config.process_unet_state_dict_for_saving(weights)
        mark = {"v_pred": torch.tensor([])} if self.is_velocity else {}
        return {name.removeprefix(PREFIX): value for name, value in saved.items()} | mark

    def set_shift(self, shift: float) -> None:
        """Set the shift of a flow's schedule, as ComfyUI's ModelSampling nodes do."""
        known = (
            {"multiplier": self.sampling.multiplier} if hasattr(self.sampling, "multiplier") else {}
        )
        self.sampling.set_parameters(shift=shift, **known)

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
    ) -> torch.Tensor:
        """Return noisy latents at noise levels [B], in the scale of ComfyUI's samplers."""
        return self.sampling.noise_scaling(sigmas, noise.clone(), latents)

    def target_factors(self) -> torch.Tensor:
        """Return a and b with target = a latents + b noise at each noise level, float64 [N,2].

        The target is the model output that stands for the latents: epsilon, v or a flow. ComfyUI's
        `calculate_denoised` is linear in the output, so it is solved for it.
        """
        sigmas = self.sigmas.double().cpu()
        one = torch.ones(len(sigmas), 1, dtype=torch.float64)
        nothing = torch.zeros_like(one)
        slope = self._calculate_denoised(sigmas, one, nothing)

        def output(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            noisy = self.add_noise(latents, noise, sigmas)
            return (latents - self._calculate_denoised(sigmas, nothing, noisy)) / slope

        return torch.cat([output(one, nothing), output(nothing, one)], dim=1)

    def predict(
        self,
        noisy: torch.Tensor,
        sigmas: torch.Tensor,
        conditioning: Sequence[Conditioning],
        sizes: torch.Tensor,
        prompt_type: str = "positive",
    ) -> torch.Tensor:
        """Return the model output [B,C,h,w] for noisy latents at noise levels [B].

        `conditioning` is that of each latent's prompt; `sizes` [B,6] are XL's `add_time_ids`.
        Latents whose conditioning ComfyUI would batch are computed together.
        """
        latents = noisy.unsqueeze(2) if self.model.latent_format.latent_dimensions == 3 else noisy
        conds = [
            self._model_conds(one, latents[k : k + 1], size, prompt_type)
            for k, (one, size) in enumerate(zip(conditioning, sizes.tolist(), strict=True))
        ]
        groups: list[list[int]] = []
        for k, cond in enumerate(conds):
            fitting = (group for group in groups if _can_concat(conds[group[0]], cond))
            group = next(fitting, None)
            groups.append([k]) if group is None else group.append(k)
        outputs: list[torch.Tensor] = [noisy] * len(conds)
        for group in groups:
            batch = self._output(latents[group], sigmas[group], [conds[k] for k in group])
            for k, one in zip(group, batch, strict=True):
                outputs[k] = one.reshape(noisy.shape[1:])
        return torch.stack(outputs)

    def _output(
        self, latents: torch.Tensor, sigmas: torch.Tensor, conds: list[dict[str, Any]]
    ) -> torch.Tensor:
        options = {"cond_or_uncond": [0] * len(conds), "sigmas": sigmas, "uuids": []}
        inputs = comfy.samplers.cond_cat(conds)
        return self.model.apply_model(latents, sigmas, transformer_options=options, **inputs)

    def _model_conds(
        self, conditioning: Conditioning, latent: torch.Tensor, size: list[float], prompt_type: str
    ) -> dict[str, Any]:
        """Return what the model reads of a prompt's conditioning, by ComfyUI's `extra_conds`."""
        names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
        height, width, top, left, target_height, target_width = size
        values = (height, width, top, left, target_height, target_width)
        conds = comfy.sampler_helpers.convert_cond(conditioning)
        conds = [dict(zip(names, values, strict=True)) | cond for cond in conds]
        device = latent.device
        [cond, *_] = comfy.samplers.encode_model_conds(
            self.model.extra_conds, conds, latent, device, prompt_type, latent_image=latent
        )
        return {
            name: value.process_cond(batch_size=1, area=None, device=device)
            for name, value in cond["model_conds"].items()
        }

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents [B,C,h,w] in the VAE's scale, with the axis of frames if it has one."""
        axes = self.model.latent_format.latent_dimensions
        unscaled: torch.Tensor = self.model.process_latent_out(
            latents.unsqueeze(2) if axes == 3 else latents
        )
        return unscaled

    @torch.no_grad()
    def sample(
        self,
        noise: torch.Tensor,
        positive: Conditioning,
        negative: Conditioning,
        size: torch.Tensor,
        *,
        steps: int,
        guidance: float,
    ) -> torch.Tensor:
        """Return latents [1,C,h,w] by ComfyUI's Euler sampler, from noise of unit variance."""
        sigmas = comfy.samplers.calculate_sigmas(self.sampling, "simple", steps).to(noise.device)
        start = self.sampling.noise_scaling(
            sigmas[:1], noise.clone(), torch.zeros_like(noise), max_denoise=True
        )

        def denoise(latents: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
            def denoised(conditioning: Conditioning, prompt_type: str) -> torch.Tensor:
                output = self.predict(latents, sigma, [conditioning], size, prompt_type)
                return self._calculate_denoised(sigma, output, latents)

            guided = denoised(positive, "positive")
            if guidance == 1:
                return guided
            unguided = denoised(negative, "negative")
            return unguided + guidance * (guided - unguided)

        latents = comfy.k_diffusion.sampling.sample_euler(denoise, start, sigmas, disable=True)
        return self.sampling.inverse_noise_scaling(sigmas[-1:], latents)


def _can_concat(first: dict[str, Any], other: dict[str, Any]) -> bool:
    return first.keys() == other.keys() and all(
        value.can_concat(other[name]) for name, value in first.items()
    )
