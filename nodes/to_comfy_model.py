"""A DIFFUSION as ComfyUI's own MODEL, CLIP and VAE."""

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
# diffusers' names for how the noise grows, and core's.
BETAS = {
    "scaled_linear": "linear",
    "linear": "sqrt_linear",
    "squaredcos_cap_v2": "squaredcos_cap_v2",
}


class ToComfyModel(io.ComfyNode):
    """MODEL, CLIP and VAE from a DIFFUSION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ToComfyModel",
            display_name="To Comfy Model",
            category="Kosmos DreamBooth/generate",
            description="Turns a model into ComfyUI's own MODEL, CLIP and VAE, for KSampler, CLIP "
            "Text Encode, VAE Decode and every other node. The pictures are the same.",
            inputs=[DIFFUSION.Input("diffusion", tooltip="The model, personalised or not.")],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For samplers and LoRA loaders."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="For VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, diffusion: Diffusion) -> io.NodeOutput:
        """Give core a copy of the weights, in its own modules wherever these fit."""
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
            model = host.core_model_around(
                CoreUNet(plain.unet),
                vae.config.latent_channels,
                vae.config.scaling_factor,
                xl=diffusion.text_encoder_2 is not None,
            )
        host.set_noise_schedule(model, prediction, settings)
        readers = [
            host.CoreReader(text_weights(encoder), encoder.config.to_dict(), tokenizer)
            for encoder, tokenizer in (
                (plain.text_encoder, diffusion.tokenizer),
                (plain.text_encoder_2, diffusion.tokenizer_2),
            )
            if encoder is not None
        ]
        clip = host.core_clip(readers, plain.dtype)
        original = is_original_vae(vae)
        return io.NodeOutput(
            model, clip, host.core_vae(vae_weights(vae)) if original else SmallVAE(diffusion)
        )


def _noise_schedule(diffusion: Diffusion) -> tuple[str, dict[str, Any]]:
    """What the model predicts and how its noise grows, in core's names."""
    config = diffusion.scheduler_config
    prediction = config.get("prediction_type", "epsilon")
    betas = config.get("beta_schedule", "linear")
    if prediction not in PREDICTIONS or betas not in BETAS or config.get("trained_betas"):
        raise UserError(
            f'{diffusion.name} predicts "{prediction}" under a "{betas}" noise schedule, which '
            "ComfyUI's samplers do not know: paint with CFGSampler."
        )
    return PREDICTIONS[prediction], {
        "beta_schedule": BETAS[betas],
        "linear_start": config.get("beta_start", 0.0001),
        "linear_end": config.get("beta_end", 0.02),
        "timesteps": config.get("num_train_timesteps", 1000),
        "zsnr": config.get("rescale_betas_zero_snr", False),
    }


class SmallVAE:
    """What core's nodes ask of a VAE, answered by one of a size that core has no module for.

    Its weights are the DIFFUSION's own, and move with them.
    """

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion
        self.downscale_ratio = diffusion.vae_factor

    def decode(self, samples: torch.Tensor, **_: object) -> torch.Tensor:
        """Latents [B,C,h,w], not scaled, to pictures [B,H,W,3], float 0..1."""
        from ..diffusion.sample.latent_preview import decode_latents

        vae = self.diffusion.vae
        device = host.load_to_device(self.diffusion.patcher)
        return decode_latents(vae, samples.to(device) * vae.config.scaling_factor)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures [B,H,W,3], float 0..1, to the means of their latents [B,C,h,w], not scaled."""
        vae = self.diffusion.vae
        device = host.load_to_device(self.diffusion.patcher)
        pictures = pixels[..., :3].permute(0, 3, 1, 2).to(device, vae.dtype)
        return vae.encode(pictures * 2 - 1).latent_dist.mean.float().cpu()

    def decode_tiled(self, samples: torch.Tensor, **_: object) -> torch.Tensor:
        """As `decode_latents`: what is small needs no tiles."""
        return self.decode(samples)

    def encode_tiled(self, pixels: torch.Tensor, **_: object) -> torch.Tensor:
        """As `encode`: what is small needs no tiles."""
        return self.encode(pixels)

    def spacial_compression_encode(self) -> int:
        """Pixels along a side of a latent cell."""
        return self.downscale_ratio

    def spacial_compression_decode(self) -> int:
        """Pixels along a side of a latent cell."""
        return self.downscale_ratio

    def temporal_compression_decode(self) -> None:
        """Nothing, for these are pictures and no films."""
