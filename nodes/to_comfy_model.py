"""The node that converts a DIFFUSION to ComfyUI's own MODEL, CLIP and VAE."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host
from .sockets import DIFFUSION

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from ..diffusion.diffusion_model import Diffusion


class ToComfyModel(io.ComfyNode):
    """MODEL, CLIP and VAE with the weights of a DIFFUSION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="ToComfyModel",
            display_name="To Comfy Model",
            category="Kosmos DreamBooth/generate",
            search_aliases="convert, checkpoint, model clip vae, ksampler",
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
        from ..diffusion.load.ldm_keys import is_original_vae
        from ..training.comfyui.model_from_diffusion import model_from_diffusion

        model, clip = model_from_diffusion(diffusion), _clip(diffusion)
        host.register_reload(model, partial(model_from_diffusion, diffusion))
        host.register_reload(clip.patcher, lambda **options: _clip(diffusion, **options).patcher)
        vae = diffusion.vae
        return io.NodeOutput(model, clip, _vae(vae) if is_original_vae(vae) else SmallVAE(vae))


@torch.inference_mode(False)
def _clip(diffusion: Diffusion, *, disable_dynamic: bool = False) -> host.CLIP:
    from ..diffusion.load.ldm_keys import text_weights
    from ..quantize.dequantize import dequantize

    encoders = [
        host.CoreTextEncoder(text_weights(dequantize(encoder)), encoder.config.to_dict(), tokenizer)
        for encoder, tokenizer in zip(
            diffusion.text_encoders, (diffusion.tokenizer, diffusion.tokenizer_2), strict=False
        )
    ]
    return host.core_clip(encoders, diffusion.dtype, disable_dynamic=disable_dynamic)


def _vae(vae: AutoencoderKL) -> host.VAE:
    from ..diffusion.load.ldm_keys import vae_weights

    core_vae = host.core_vae(vae_weights(vae))
    host.register_reload(core_vae.patcher, lambda **_: host.core_vae(vae_weights(vae)).patcher)
    return core_vae


class SmallVAE:
    """The interface of core's VAE, for a VAE of a size that core has no module for."""

    def __init__(self, vae: AutoencoderKL) -> None:
        """Copy a VAE, because ComfyUI may move the MODEL's VAE to another device than ours."""
        self.patcher = _vae_patcher(vae)
        host.register_reload(self.patcher, partial(_vae_patcher, vae))
        self.first_stage_model = self.patcher.model
        self.device = self.patcher.load_device
        self.downscale_ratio = 2 ** (len(vae.config.block_out_channels) - 1)

    @property
    def _vae(self) -> AutoencoderKL:
        vae: AutoencoderKL = self.first_stage_model.module
        return vae

    def get_sd(self) -> dict[str, torch.Tensor]:
        """Return the weights by the keys of Stable Diffusion's original VAE, as core saves them."""
        from ..diffusion.load.ldm_keys import vae_weights

        return vae_weights(self._vae)

    def decode(self, samples: torch.Tensor, **_: object) -> torch.Tensor:
        """Decode unscaled latents [B,C,h,w] to images [B,H,W,3], float 0..1."""
        from ..diffusion.sample.latent_preview import decode_latents

        device = host.load_to_device(self.patcher)
        return decode_latents(self._vae, samples.to(device) * self._vae.config.scaling_factor)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images [B,H,W,3], float 0..1, to the means of their unscaled latents [B,C,h,w]."""
        from ..diffusion.sample import vae_tiles

        device = host.load_to_device(self.patcher)
        images = pixels[..., :3].permute(0, 3, 1, 2).to(device, self._vae.dtype)
        return vae_tiles.encode(self._vae, images * 2 - 1).mean.float().cpu()

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


def _vae_patcher(vae: AutoencoderKL, **_: object) -> host.ModelPatcher:
    return host.register_model(deepcopy(vae))
