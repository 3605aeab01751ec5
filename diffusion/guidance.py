"""Classifier-free guidance (Ho and Salimans 2022, equation 6) in one pass of the UNet."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel


def guidance_states(prompts: torch.Tensor, negative: torch.Tensor, guidance: float) -> torch.Tensor:
    """What the UNet is told for a batch of N pictures.

    prompts: [N, tokens, width]; negative: [tokens, width]. Returns [2N, tokens, width], negative
    half first, or `prompts` alone at guidance 1, where the negative half would cancel out.
    """
    if guidance == 1:
        return prompts
    return torch.cat([negative.expand_as(prompts), prompts])


def guided_prediction(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    states: torch.Tensor,
    guidance: float,
) -> torch.Tensor:
    """The guided prediction for N latents, with both halves in one batch of 2N.

    latents: [N,C,h,w] as the scheduler scaled them; states: from `guidance_states`.
    Returns [N,C,h,w] float32: negative + guidance * (prompted - negative).
    """
    both = latents.repeat(len(states) // len(latents), 1, 1, 1).to(unet.dtype)
    output = unet(both, timestep, encoder_hidden_states=states, return_dict=False)[0].float()
    if len(output) == len(latents):
        return output
    negative, prompted = output.chunk(2)
    return negative + guidance * (prompted - negative)
