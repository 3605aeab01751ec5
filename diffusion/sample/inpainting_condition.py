"""The further inputs of an inpainting UNet: mask, and latents of the image without its masked area.

They are those of diffusers' StableDiffusionInpaintPipeline: the mask is binary, and masked pixels
are gray.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..diffusion_model import Diffusion
from .img2img_input import Img2ImgInput

BINARY = 0.5
"""Mask values from this on are generated."""


def inpainting_condition(
    diffusion: Diffusion,
    img2img: Img2ImgInput | None,
    generators: Sequence[torch.Generator],
    latent_size: tuple[int, int],
) -> torch.Tensor | None:
    """Return [N,1+C,h,w] for N images, one generator each; None for other models.

    The channels are the mask, 1 is generated, and the latents of the masked image. Without image
    or mask everything is generated.
    """
    if not diffusion.is_inpainting_model:
        return None
    height, width = (side * diffusion.vae_factor for side in latent_size)
    if img2img is None:
        img2img = Img2ImgInput(torch.full((len(generators), height, width, 3), 0.5))
    mask = torch.ones(len(img2img.images), height, width) if img2img.mask is None else img2img.mask
    mask = (mask >= BINARY).float().cpu()
    gray = 0.5 + (img2img.images[..., :3].float().cpu() - 0.5) * (1 - mask[..., None])
    latents = Img2ImgInput(gray).encode(diffusion, generators)
    latent_mask = torch.nn.functional.interpolate(mask[:, None], size=latent_size)
    return torch.cat([latent_mask.to(latents.device), latents], 1).to(diffusion.device)
