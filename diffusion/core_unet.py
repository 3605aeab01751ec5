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
        if unet.config.addition_embed_type == "text_time":
            copied.add_time_proj = torch.nn.Identity()  # ComfyUI has done that
        self._call = (copied,)  # in a tuple, or every layer would have a second name
        for name, child in copied.named_children():
            self.add_module(name, child)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        y: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """The prediction for latents [N,C,h,w] at timesteps [N], told context [N,tokens,width].

        y: what XL is told besides, [N,width]: the prompt as a whole, then its place in the original
            (`predict.frame`) as ComfyUI embeds it, each number in 256 features.
        What else ComfyUI passes is for the insides of its own models (ControlNets, patches of
        attention), which this one does not have.
        """
        unet, more = self._call[0], {}
        if y is not None:
            place = 6 * unet.config.addition_time_embed_dim
            more["added_cond_kwargs"] = {"text_embeds": y[:, :-place], "time_ids": y[:, -place:]}
        return unet(x, timesteps, context, return_dict=False, **more)[0]
