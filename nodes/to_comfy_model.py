"""The node that converts a DIFFUSION to ComfyUI's own MODEL, CLIP and VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .sockets import DIFFUSION

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion

PREDICTIONS = {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}
# The beta schedules: diffusers' names and core's.
BETAS = {
    "scaled_linear": "linear",
    "linear": "sqrt_linear",
    "squaredcos_cap_v2": "squaredcos_cap_v2",
}


class ToComfyModel(io.ComfyNode):
    """MODEL, CLIP and VAE with the weights of a DIFFUSION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ToComfyModel",
            display_name="To Comfy Model",
            category="Kosmos DreamBooth/generate",
            description="Converts a DIFFUSION to ComfyUI's own MODEL, CLIP and VAE, for KSampler, "
            "CLIP Text Encode, VAE Decode and all other nodes. The images are the same.",
            inputs=[DIFFUSION.Input("diffusion", tooltip="The model, trained or not.")],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For samplers and LoRA loaders."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="For VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, diffusion: Diffusion) -> io.NodeOutput:
        """Copy the weights into core's modules, or wrap ours where core has none of the size."""
        from ..diffusion.core_unet import CoreUNet
        from ..diffusion.load.ldm_keys import (
            is_original_vae,
            text_weights,
            unet_weights,
            vae_weights,
        )
        from ..quantize.dequantize import dequantize_diffusion

        plain = dequantize_diffusion(diffusion)
        prediction, settings = _noise_schedule(diffusion)
        vae = diffusion.vae
        model = host.core_model(unet_weights(plain.unet), plain.dtype)
        if model is None:
            model = host.wrap_unet(
                CoreUNet(plain.unet),
                vae.config.latent_channels,
                vae.config.scaling_factor,
                xl=diffusion.text_encoder_2 is not None,
            )
        host.set_noise_schedule(model, prediction, settings)
        encoders = [
            host.CoreTextEncoder(text_weights(encoder), encoder.config.to_dict(), tokenizer)
            for encoder, tokenizer in (
                (plain.text_encoder, diffusion.tokenizer),
                (plain.text_encoder_2, diffusion.tokenizer_2),
            )
            if encoder is not None
        ]
        clip = host.core_clip(encoders, plain.dtype)
        original = is_original_vae(vae)
        return io.NodeOutput(
            model, clip, host.core_vae(vae_weights(vae)) if original else SmallVAE(diffusion)
        )


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


class SmallVAE:
    """The interface of core's VAE, for a VAE of a size that core has no module for.

    Its weights are those of the DIFFUSION, and are loaded to the device with them.
    """

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion
        self.downscale_ratio = diffusion.vae_factor

    def decode(self, samples: torch.Tensor, **_: object) -> torch.Tensor:
        """Decode unscaled latents [B,C,h,w] to images [B,H,W,3], float 0..1."""
        from ..diffusion.sample.latent_preview import decode_latents

        vae = self.diffusion.vae
        device = host.load_to_device(self.diffusion.patcher)
        return decode_latents(vae, samples.to(device) * vae.config.scaling_factor)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images [B,H,W,3], float 0..1, to the means of their unscaled latents [B,C,h,w]."""
        vae = self.diffusion.vae
        device = host.load_to_device(self.diffusion.patcher)
        images = pixels[..., :3].permute(0, 3, 1, 2).to(device, vae.dtype)
        return vae.encode(images * 2 - 1).latent_dist.mean.float().cpu()

    def decode_tiled(self, samples: torch.Tensor, **_: object) -> torch.Tensor:
        """As `decode`: small models need no tiles."""
        return self.decode(samples)

    def encode_tiled(self, pixels: torch.Tensor, **_: object) -> torch.Tensor:
        """As `encode`: small models need no tiles."""
        return self.encode(pixels)

    def spacial_compression_encode(self) -> int:
        """Return the side of a latent cell in pixels."""
        return self.downscale_ratio

    def spacial_compression_decode(self) -> int:
        """Return the side of a latent cell in pixels."""
        return self.downscale_ratio

    def temporal_compression_decode(self) -> None:
        """Return None, as core's VAEs of images do."""
