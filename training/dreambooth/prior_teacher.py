"""Prior preservation against the model itself: what it painted before, it shall paint again."""

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
    """The model as it was before training, asked what it predicts for noisy class pictures.

    Its answers stand for the class pictures in the loss's second term (Ruiz et al. 2022, eq. 2).
    Their mean is the same, but they carry none of the noise of single pictures (knowledge
    distillation, Hinton et al. 2015), so that a short run keeps its class's variety. Adapters are
    switched off for it, which costs no memory; a UNet that is trained whole is copied, in the
    `precision` that it computes in.
    `states` are what the text encoders said of each prompt before training. `unrounded` lets a UNet
    compute with its weights as they are, where training feels their rounding.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        states: dict[str, PromptEmbeds],
        unrounded: Callable[[UNet2DConditionModel], AbstractContextManager[None]] = nullcontext,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._copy: UNet2DConditionModel | None = None
        if not _adapters(unet):
            self._copy = copy.deepcopy(unet).requires_grad_(False).to(precision)
        self._states = states
        self._unrounded = unrounded

    @torch.no_grad()
    def predict(
        self,
        unet: UNet2DConditionModel,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: list[str],
        frames: torch.Tensor,
    ) -> torch.Tensor:
        """Return the prediction [B,C,h,w] for noisy latents [B,C,h,w] at timesteps [B].

        `frames` [B,6] say where the pictures lie in their originals.
        `unet` is the model in training, of which only the adapters may have changed.
        """
        text = PromptEmbeds.join([self._states[prompt] for prompt in prompts])
        if self._copy is not None:
            with self._unrounded(self._copy):
                return unet_forward(self._copy.to(noisy.device), noisy, timesteps, text, frames)
        with _without_adapters(unet), self._unrounded(unet):
            return unet_forward(unet, noisy, timesteps, text, frames)


def _adapters(unet: UNet2DConditionModel) -> list[BaseTunerLayer]:
    return [layer for layer in unet.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def _without_adapters(unet: UNet2DConditionModel) -> Iterator[None]:
    for layer in _adapters(unet):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in _adapters(unet):
            layer.enable_adapters(True)
