"""The DIFFUSION socket: one Stable Diffusion model, ready for sampling or training."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        PreTrainedTokenizerBase,
    )


def inpainting_channels(latent_channels: int) -> int:
    """Return the input channels of an inpainting UNet: latents, mask, latents of the image."""
    return 2 * latent_channels + 1


class PartLoader(Protocol):
    """Moves the modules of a model between devices; `load_device` is that of the UNet."""

    load_device: torch.device

    def load_parts(self, *names: str) -> None:
        """Move the modules of these names to the devices that they compute on."""


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Stable Diffusion 1.x, 2.x or XL: a latent diffusion model with CLIP text encoders.

    The modules are in evaluation mode and need no gradients. Images are [B,H,W,3] floats in 0..1;
    latents are [B,C,H/f,W/f], multiplied by `vae.config.scaling_factor`, with f = `vae_factor`.

    scheduler_config: diffusers' noise schedule and prediction type, as in scheduler_config.json.
    source: path of the folder or file the weights came from; `load_diffusion` reads it again.
    name: display name.
    resolution: side in pixels of the square images that the model was trained on.
    text_encoder_2, tokenizer_2: XL's second text encoder; None in 1.x and 2.x.
    prediction: the choice of `load.prediction` that replaced what the files say; "auto" if none.
    loras: files whose weights are merged into the modules, in the order they were merged.
    patcher: moves each module to its device before it computes (in ComfyUI a ModelPatcher); None
        for modules that stay where they are.
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
    prediction: str = "auto"
    loras: tuple[str, ...] = ()
    patcher: PartLoader | None = field(default=None, repr=False)

    @cached_property
    def modules(self) -> torch.nn.ModuleDict:
        """All modules with weights in one container, to move them between devices together."""
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        if self.text_encoder_2 is not None:
            parts["text_encoder_2"] = self.text_encoder_2
        return torch.nn.ModuleDict(parts)

    @property
    def text_encoders(self) -> list[CLIPTextModel | CLIPTextModelWithProjection]:
        """The only text encoder, or XL's two."""
        second = self.text_encoder_2
        return [self.text_encoder] if second is None else [self.text_encoder, second]

    def load(self, *names: str) -> None:
        """Move the modules of these names to their devices, before they compute."""
        if self.patcher is not None:
            self.patcher.load_parts(*names)

    @property
    def device(self) -> torch.device:
        """The device that the UNet computes on."""
        if self.patcher is not None:
            return self.patcher.load_device
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's dtype."""
        return next(self.unet.parameters()).dtype

    @property
    def is_inpainting_model(self) -> bool:
        """Whether the UNet has the mask and the latents of the masked image as further inputs."""
        channels = self.vae.config.latent_channels
        return bool(self.unet.config.in_channels == inpainting_channels(channels))

    @property
    def vae_factor(self) -> int:
        """The VAE's scale factor f: pixels per latent pixel; image sides are multiples of it."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)
