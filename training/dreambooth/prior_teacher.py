"""Prior preservation by distillation: the model before training predicts the class targets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

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
    For a UNet with adapters these are disabled meanwhile, which takes no memory; a fully trained
    UNet is copied, in `precision`. `prompt_embeds` are those of each prompt before training.
    `without_fake_quantization` is a context in which a UNet computes with its unquantized weights.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        prompt_embeds: dict[str, PromptEmbeds],
        without_fake_quantization: Callable[
            [UNet2DConditionModel], AbstractContextManager[None]
        ] = nullcontext,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._copy: UNet2DConditionModel | None = None
        if not adapter_layers(unet):
            self._copy = copy.deepcopy(unet).requires_grad_(False).to(precision)
        self._prompt_embeds = prompt_embeds
        self._without_fake_quantization = without_fake_quantization

    @torch.no_grad()
    def predict(
        self,
        unet: UNet2DConditionModel,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: list[str],
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Return the prediction [B,C,h,w] for noisy latents [B,C,h,w] at timesteps [B].

        `unet` is the UNet in training; only its adapters may have changed, unless it is trained
        fully. `time_ids` [B,6] are XL's `add_time_ids`.
        """
        embeds = PromptEmbeds.join([self._prompt_embeds[prompt] for prompt in prompts])
        if self._copy is not None:
            teacher = self._copy.to(noisy.device)
            with self._without_fake_quantization(teacher):
                return unet_forward(teacher, noisy, timesteps, embeds, time_ids)
        with adapters_disabled(unet), self._without_fake_quantization(unet):
            return unet_forward(unet, noisy, timesteps, embeds, time_ids)


def adapter_layers(unet: torch.nn.Module) -> list[BaseTunerLayer]:
    """Return the layers of a model that have adapters."""
    return [layer for layer in unet.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def adapters_disabled(unet: torch.nn.Module) -> Iterator[None]:
    """Compute without the adapters for the duration of a `with` block."""
    for layer in adapter_layers(unet):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapter_layers(unet):
            layer.enable_adapters(True)
