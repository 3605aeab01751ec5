"""ComfyUI's MODEL of a DIFFUSION, as ToComfyModel gives it and as a worker opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_detection
import comfy.model_management as management
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher

from ...shared.errors import UserError

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion

SOURCE = "kosmos_dreambooth.diffusion"
"""The attachment of such a MODEL: the DIFFUSION that it was made of."""
PREDICTIONS = {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}
# The beta schedules: diffusers' names and core's.
BETAS = {
    "scaled_linear": "linear",
    "linear": "sqrt_linear",
    "squaredcos_cap_v2": "squaredcos_cap_v2",
}


@torch.inference_mode(False)  # core's nodes train copies of the weights
def model_from_diffusion(diffusion: Diffusion, *, disable_dynamic: bool = False) -> ModelPatcher:
    """Copy the weights into core's module, or wrap ours where core has none of the size.

    Raises UserError for a noise schedule that core does not have.
    """
    from ...diffusion.core_unet import CoreUNet
    from ...diffusion.load.ldm_keys import unet_weights
    from ...quantize.dequantize import dequantize

    prediction, settings = _noise_schedule(diffusion)
    unet, vae = dequantize(diffusion.unet), diffusion.vae
    model = _core_model(unet_weights(unet), diffusion.dtype, disable_dynamic=disable_dynamic)
    if model is None:
        model = wrap_unet(
            CoreUNet(unet),
            vae.config.latent_channels,
            vae.config.scaling_factor,
            unet.config.block_out_channels[0],
            xl=diffusion.text_encoder_2 is not None,
            inpainting=diffusion.is_inpainting_model,
        )
    set_noise_schedule(model, prediction, settings)
    model.set_attachments(SOURCE, diffusion)
    return model


def copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a copy of weights: with dynamic VRAM, ComfyUI's modules keep the given tensors."""
    return {key: weight.clone() for key, weight in weights.items()}


def loader_options(*, disable_dynamic: bool) -> dict[str, bool]:
    """Return the argument of core's loaders that not every ComfyUI knows, if it is needed."""
    return {"disable_dynamic": True} if disable_dynamic else {}


def _core_model(
    weights: dict[str, torch.Tensor], dtype: torch.dtype, *, disable_dynamic: bool
) -> ModelPatcher | None:
    """Return core's MODEL of a UNet's weights, by original keys; None if core has no such UNet."""
    config = comfy.model_detection.detect_unet_config(weights, "")
    if not any(kind.matches(config or {}, weights) for kind in comfy.supported_models.models):
        return None  # core's loader would log an error
    return comfy.sd.load_diffusion_model_state_dict(
        copied(weights),
        model_options={"dtype": dtype},
        **loader_options(disable_dynamic=disable_dynamic),
    )


class _Conv2d(comfy.ops.disable_weight_init.Conv2d):
    """Core's convolution; adapters, of the same class, begin with diffusers' random weights."""

    reset_parameters = torch.nn.Conv2d.reset_parameters


CASTING_LAYERS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {torch.nn.Conv2d: _Conv2d} | {
    layer: getattr(comfy.ops.disable_weight_init, layer.__name__)
    for layer in (torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm)
}
"""Core's subclasses of PyTorch's layers: the same, until a `weight_function` or cast is set."""


def wrap_unet(
    unet: torch.nn.Module,
    channels: int,
    scale: float,
    model_channels: int,
    *,
    xl: bool,
    inpainting: bool,
) -> ModelPatcher:
    """Return a MODEL whose UNet is a module of the pack.

    The module is called as core calls its UNets, with `xl` as those of Stable Diffusion XL.
    inpainting: whether its further inputs are mask and image, as core's inpainting models have.
    channels: of the latents; scale: factor by which they are multiplied before the UNet.
    model_channels: of the UNet's first block, which core's patches of blocks read.

    The module's layers become core's, which core trains and casts.
    """
    for module in unet.modules():
        module.__class__ = CASTING_LAYERS.get(type(module), type(module))
    config = comfy.supported_models_base.BASE(
        {
            "disable_unet_model_creation": True,
            "in_channels": channels,
            "model_channels": model_channels,
        }
    )
    config.latent_format.latent_channels = channels
    config.latent_format.scale_factor = scale
    device = management.unet_offload_device()
    kind = comfy.model_base.SDXL if xl else comfy.model_base.BaseModel
    model = kind(config, device=device)
    model.diffusion_model = unet.to(device)
    if inpainting:
        model.set_inpaint()
    return ModelPatcher(model, management.get_torch_device(), device)


def set_noise_schedule(model: ModelPatcher, prediction: str, settings: dict[str, object]) -> None:
    """Set a MODEL's prediction type, a name of `comfy.model_base.ModelType`, and noise schedule.

    settings: those of `comfy.model_sampling.ModelSamplingDiscrete`.
    """
    inner = model.model
    inner.model_config.sampling_settings.update(settings)
    inner.model_type = comfy.model_base.ModelType[prediction]
    inner.model_sampling = comfy.model_base.model_sampling(inner.model_config, inner.model_type)


def _noise_schedule(diffusion: Diffusion) -> tuple[str, dict[str, Any]]:
    """Return the prediction type and the noise schedule, in core's names."""
    config = diffusion.scheduler_config
    prediction = config.get("prediction_type", "epsilon")
    betas = config.get("beta_schedule", "linear")
    if prediction not in PREDICTIONS or betas not in BETAS or config.get("trained_betas"):
        raise UserError(
            f'{diffusion.name} predicts "{prediction}" under a "{betas}" noise schedule, which '
            "ComfyUI's samplers do not support: use CFG Sampler."
        )
    return PREDICTIONS[prediction], {
        "beta_schedule": BETAS[betas],
        "linear_start": config.get("beta_start", 0.0001),
        "linear_end": config.get("beta_end", 0.02),
        "timesteps": config.get("num_train_timesteps", 1000),
        "zsnr": config.get("rescale_betas_zero_snr", False),
    }
