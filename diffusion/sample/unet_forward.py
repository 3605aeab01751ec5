"""One forward pass of the UNet, with XL's additional conditioning where the model has it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from .prompt_encoding import PromptEmbeds


def add_time_ids(
    height: int, width: int, *, original: tuple[int, int] | None = None, top: int = 0, left: int = 0
) -> torch.Tensor:
    """SDXL's micro-conditioning on size and crop, [6], float32, in pixels.

    height, width: target size.
    original: height and width of the image before it was scaled and cropped, None for the same.
    top, left: upper left corner of the crop, after scaling.

    The order is original height and width, top, left, height, width (Podell et al. 2023, section
    2.2).
    """
    return torch.tensor([*(original or (height, width)), top, left, height, width]).float()


def unet_forward(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    prompt_embeds: PromptEmbeds,
    time_ids: torch.Tensor,
) -> torch.Tensor:
    """Return the UNet's output [N,C,h,w], in the UNet's dtype, for noisy latents of that shape.

    timesteps: [N], or a single one for all. prompt_embeds: of N prompts. time_ids: [N,6] from
    `add_time_ids`, used by XL only.
    """
    # The UNet's `device` and `dtype` search all of its modules, which takes longer than a layer.
    weight = next(p for p in unet.parameters() if p.is_floating_point())
    device, dtype = weight.device, weight.dtype
    prompt_embeds = prompt_embeds.to(device, dtype)
    added: dict[str, Any] = {}
    if prompt_embeds.pooled is not None:
        added = {"text_embeds": prompt_embeds.pooled, "time_ids": time_ids.to(device)}
    return unet(
        latents.to(dtype),
        timesteps,
        encoder_hidden_states=prompt_embeds.states,
        added_cond_kwargs=added or None,
        return_dict=False,
    )[0]
