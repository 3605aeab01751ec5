"""One pass of the UNet, told what its kind of model is told."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from .prompt_encoding import PromptEmbeds


def add_time_ids(
    height: int, width: int, *, original: tuple[int, int] | None = None, top: int = 0, left: int = 0
) -> torch.Tensor:
    """What XL is told about where a picture lies in its original, [6], float32, in pixels.

    height, width: of the picture; original: height and width of what it was made from, before it
        was scaled and cut, None for the same; top, left: where it was cut out, after scaling.

    The order is original height and width, top, left, height, width (Podell et al. 2023, section
    2.2).
    """
    return torch.tensor([*(original or (height, width)), top, left, height, width]).float()


def unet_forward(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    text: PromptEmbeds,
    frames: torch.Tensor,
) -> torch.Tensor:
    """The UNet's output [N,C,h,w] for noisy latents of that shape, in the UNet's precision.

    timesteps: [N], or one for all. text: of N prompts. frames: [N,6] from
    `add_time_ids`, of which only XL is told.
    """
    # The UNet's own `device` and `dtype` ask all of its modules, which takes longer than a layer.
    weight = next(p for p in unet.parameters() if p.is_floating_point())
    device, dtype = weight.device, weight.dtype
    text = text.to(device, dtype)
    more: dict[str, Any] = {}
    if text.pooled is not None:
        more["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": frames.to(device)}
    return unet(
        latents.to(dtype),
        timesteps,
        encoder_hidden_states=text.states,
        return_dict=False,
        **more,
    )[0]
