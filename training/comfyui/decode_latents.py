"""Decode latents of previews with the VAE that was connected to the node."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch


@torch.no_grad()
def decode_with_file(file: Path, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents in the VAE's scale to images [N,H,W,3], float 0..1, on the CPU.

    The VAE is loaded from a file of its weights and removed again, so that the training has the
    memory. ComfyUI decodes in tiles when the memory is short.
    """
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(file)))
    try:
        images = vae.decode(latents)
        return images.reshape(-1, *images.shape[-3:]).float().cpu()
    finally:
        management.unload_all_models()
        management.soft_empty_cache()
