"""diffusers' UNet with the call signature of ComfyUI's own diffusion models."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ..shared.errors import UserError


class CoreUNet(torch.nn.Module):
    """A copy of a UNet whose layers keep diffusers' names, which LoRA files refer to.

    It is a copy because ComfyUI merges LoRAs into the weights of a MODEL in place.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        copied = deepcopy(unet)
        if unet.config.addition_embed_type == "text_time":
            copied.add_time_proj = torch.nn.Identity()  # ComfyUI has applied it
        self._unet = (copied,)  # in a tuple, so that it is not registered as a submodule
        self._modules = copied._modules  # shared, so that adapters replace layers in both

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        y: torch.Tensor | None = None,
        control: object = None,
        transformer_options: dict[str, Any] | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Predict for latents x [N,C,h,w] at timesteps [N] with context [N,tokens,width].

        y: XL's vector conditioning [N,width]: the pooled prompt embedding, then the six numbers of
            `unet_forward.add_time_ids`, each as ComfyUI's embedding of 256 features.

        control, transformer_options: ComfyUI's ControlNets and patches of blocks. Raises UserError
            when there are any: they work inside ComfyUI's own UNets only.
        """
        options = transformer_options or {}
        if control or options.get("patches") or options.get("patches_replace"):
            raise UserError(
                "ComfyUI has no module for a UNet of this size, so ControlNets and patches of its "
                "blocks (FreeU, Self-Attention Guidance) do not work on it: bypass them, or load "
                "a Stable Diffusion 1.x, 2.x or XL."
            )
        unet, added = self._unet[0], None
        if x.shape[1] != unet.config.in_channels:
            raise UserError(
                f"The LATENT has {x.shape[1]} channels, and this model needs "
                f"{unet.config.in_channels}: encode it with the VAE of the same model."
            )
        if y is not None:
            width = 6 * unet.config.addition_time_embed_dim
            added = {"text_embeds": y[:, :-width], "time_ids": y[:, -width:]}
        return unet(x, timesteps, context, added_cond_kwargs=added, return_dict=False)[0]
