"""Prior preservation by distillation: the model before training predicts the class targets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer

from ...diffusion.sample.prompt_encoding import PromptEmbeds
from ...diffusion.sample.unet_forward import unet_forward


class PriorTeacher:
    """The UNet as it was before training, whose predictions replace the class images' targets.

    They stand in the second term of the loss (Ruiz et al. 2022, eq. 2): the mean is that of the
    class images' targets, without the variance of single images (knowledge distillation, Hinton et
    al. 2015), so a short run preserves the diversity of the class.
    `unet` is an untrained one from `share_weights`; `prompt_embeds` are those of each prompt before
    training.
    """

    def __init__(self, unet: UNet2DConditionModel, prompt_embeds: dict[str, PromptEmbeds]) -> None:
        self._unet = unet
        self._device: torch.device | None = None
        self._prompt_embeds = prompt_embeds

    def copy_weights(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        """Stop sharing the weights: they will be trained, or needed on another device."""
        self._unet = copy.deepcopy(self._unet).requires_grad_(False).to(device, dtype)
        self._device = device

    @torch.no_grad()
    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: list[str],
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Return the prediction [B,C,h,w] for noisy latents [B,C,h,w] at timesteps [B].

        `time_ids` [B,6] are XL's `add_time_ids`. It may be called in any thread.
        """
        embeds = PromptEmbeds.join([self._prompt_embeds[prompt] for prompt in prompts])
        device = self._device or noisy.device
        if next(self._unet.parameters()).device != device:
            self._unet.to(device)
        inputs = noisy.to(device), timesteps.to(device)
        return unet_forward(self._unet, *inputs, embeds, time_ids).to(noisy.device)


def share_weights(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a UNet of the same weights, without a copy of them.

    What is done to one of the two models later (adapters, fake quantization, gradient
    checkpointing) does not affect the other, but moving and training the weights does.
    """
    stored = [layer.stored for layer in unet.modules() if hasattr(layer, "stored")]  # frozen_layers
    return copy.deepcopy(unet, {id(p): p for p in (*unet.parameters(), *unet.buffers(), *stored)})


def adapter_layers(model: torch.nn.Module) -> list[BaseTunerLayer]:
    """Return the layers of a model that have adapters."""
    return [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def adapters_disabled(model: torch.nn.Module) -> Iterator[None]:
    """Compute without the adapters for the duration of a `with` block."""
    for layer in adapter_layers(model):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapter_layers(model):
            layer.enable_adapters(True)
