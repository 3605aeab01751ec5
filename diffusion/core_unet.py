"""A UNet of any size, called as ComfyUI's own models are."""

from __future__ import annotations

from copy import deepcopy

import torch
from diffusers import UNet2DConditionModel


class CoreUNet(torch.nn.Module):
    """A copy of a UNet; its layers have diffusers' names, which LoRA files are written for.

    A copy, for ComfyUI merges LoRAs into the weights of a MODEL in their place.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        copied = deepcopy(unet)
        self._call = (copied,)  # in a tuple, or every layer would have a second name
        for name, child in copied.named_children():
            self.add_module(name, child)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, **_: object
    ) -> torch.Tensor:
        """The prediction for latents [N,C,h,w] at timesteps [N], told context [N,tokens,width].

        What else ComfyUI passes is for the insides of its own models (ControlNets, patches of
        attention), which this one does not have.
        """
        return self._call[0](x, timesteps, context, return_dict=False)[0]
