"""Weights that are the mean of those of many steps, and become the result in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

Weights = dict[str, torch.Tensor]


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that training changes, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class WeightAverage:
    """The exponential moving average of a module's weights, by diffusers' EMAModel.

    After step n its decay is min(decay, n / (9 + n)), so that a short run has an average as well.
    `held` is what a checkpoint kept of it after `steps` steps.
    """

    def __init__(
        self, module: torch.nn.Module, decay: float, steps: int, held: Mapping[str, torch.Tensor]
    ) -> None:
        from diffusers.training_utils import EMAModel

        self._parameters = trainable(module)
        self._ema = EMAModel(self._parameters.values(), decay=decay)
        self._ema.optimization_step = steps
        for shadow, name in zip(self._ema.shadow_params, self._parameters, strict=True):
            if name in held:
                shadow.copy_(held[name])

    def step(self) -> None:
        """Take in the weights after a step."""
        self._ema.step(self._parameters.values())

    def weights(self) -> Weights:
        """Return the averaged weights by name."""
        return dict(zip(self._parameters, self._ema.shadow_params, strict=True))


def schedule_free_weights(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Weights:
    """Return the mean that a schedule-free optimizer keeps (Defazio et al. 2024, eq. 5).

    It trains at another point, to which the way back rounds: the weights are put back bit for bit.
    """
    parameters = trainable(module)
    trained = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.eval()  # type: ignore[attr-defined]
    mean = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.train()  # type: ignore[attr-defined]
    load_weights(module, trained)
    return mean


@torch.no_grad()
def load_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a module's parameters of these names these values."""
    parameters = dict(module.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


@contextmanager
def swap_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Put weights into a module for a while; afterwards it has its own again, bit for bit."""
    parameters = dict(module.named_parameters())
    own = {name: parameters[name].detach().clone() for name in weights}
    load_weights(module, weights)
    try:
        yield
    finally:
        load_weights(module, own)
