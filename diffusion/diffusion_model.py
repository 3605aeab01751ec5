"""The DIFFUSION socket: one Stable Diffusion model, ready to paint or to be trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        PreTrainedTokenizerBase,
    )


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A latent diffusion model that reads CLIP: Stable Diffusion 1.x, 2.x or XL.

    The modules are in evaluation mode and ask for no gradients. Pictures are [B,H,W,3] floats in
    0..1; latents are [B,C,H/f,W/f], scaled by `vae.config.scaling_factor`, with f = `vae_factor`.

    scheduler_config: diffusers' noise schedule and prediction type, as in scheduler_config.json.
    source: path of the folder or file the weights came from; `load_diffusion` reads it again.
    name: what a person calls the model.
    resolution: side in pixels of the square pictures that the model was trained on.
    text_encoder_2, tokenizer_2: XL's second reader of prompts; None in 1.x and 2.x.
    loras: files whose weights are merged into the modules, in the order they were merged.
    patcher: handle of whoever moves the modules between devices; the engine does not look at it.
    """

    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    scheduler_config: dict[str, Any]
    source: str
    name: str
    resolution: int
    text_encoder_2: CLIPTextModelWithProjection | None = field(default=None, repr=False)
    tokenizer_2: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    loras: tuple[str, ...] = ()
    patcher: object | None = field(default=None, repr=False)

    @cached_property
    def modules(self) -> torch.nn.ModuleDict:
        """All weights in one container, so that they travel between devices together."""
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        if self.text_encoder_2 is not None:
            parts["text_encoder_2"] = self.text_encoder_2
        return torch.nn.ModuleDict(parts)

    @property
    def text_encoders(self) -> list[CLIPTextModel | CLIPTextModelWithProjection]:
        """Who reads prompts: one, or XL's two."""
        second = self.text_encoder_2
        return [self.text_encoder] if second is None else [self.text_encoder, second]

    @property
    def device(self) -> torch.device:
        """Where the UNet lies now."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet's weights."""
        return next(self.unet.parameters()).dtype

    @property
    def vae_factor(self) -> int:
        """Pixels along one side of a latent cell; a picture's sides are multiples of it."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)
