"""Prior preservation against the model itself: what it painted before, it shall paint again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer


class Prior:
    """The model as it was before training, asked what it predicts for noisy class pictures.

    Its answers stand for the class pictures in the loss's second term (Ruiz et al. 2022, eq. 2).
    Their mean is the same, but they carry none of the noise of single pictures (knowledge
    distillation, Hinton et al. 2015), so that a short run keeps its class's variety. Adapters are
    switched off for it, which costs no memory; a UNet that is trained whole is copied.
    `states` are prompt -> hidden states [L,D] of the text encoder before training.
    """

    def __init__(self, unet: UNet2DConditionModel, states: dict[str, torch.Tensor]) -> None:
        self._copy = None if _adapters(unet) else copy.deepcopy(unet).requires_grad_(False)
        self._states = states

    @torch.no_grad()
    def predict(
        self,
        unet: UNet2DConditionModel,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: list[str],
    ) -> torch.Tensor:
        """Return the prediction [B,C,h,w] for noisy latents [B,C,h,w] at timesteps [B].

        `unet` is the model in training, of which only the adapters may have changed.
        """
        states = torch.stack([self._states[prompt] for prompt in prompts]).to(noisy.device)
        if self._copy is not None:
            return self._copy.to(noisy.device)(noisy, timesteps, states, return_dict=False)[0]
        with _without_adapters(unet):
            return unet(noisy, timesteps, states, return_dict=False)[0]


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
