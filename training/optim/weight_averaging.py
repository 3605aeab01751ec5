"""Averages of the weights over many steps, which replace the trained weights in the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ...shared.errors import UserError

Weights = dict[str, torch.Tensor]


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters with `requires_grad`, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class WeightAverage:
    """The exponential moving average (EMA) of a module's weights, by diffusers' EMAModel.

    The decay after step n is min(decay, n / (9 + n)), which suits short runs too. `average` is the
    average in the checkpoint of step `steps`, by parameter name.
    """

    def __init__(
        self, module: torch.nn.Module, decay: float, steps: int, average: Mapping[str, torch.Tensor]
    ) -> None:
        from diffusers.training_utils import EMAModel

        self._parameters = trainable(module)
        self._ema = EMAModel(self._parameters.values(), decay=decay)
        self._ema.optimization_step = steps
        for shadow, name in zip(self._ema.shadow_params, self._parameters, strict=True):
            if name in average:
                shadow.copy_(average[name])

    def step(self) -> None:
        """Update the average after an optimizer step."""
        self._ema.step(self._parameters.values())

    def weights(self) -> Weights:
        """Return the averaged weights by name."""
        return dict(zip(self._parameters, self._ema.shadow_params, strict=True))


def schedule_free_weights(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Weights:
    """Return the averaged weights of a schedule-free optimizer (Defazio et al. 2024, eq. 5).

    Its `eval` and `train` swap the weights with rounding errors, so they are restored from a copy.
    """
    parameters = trainable(module)
    trained = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.eval()  # type: ignore[attr-defined]
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.train()  # type: ignore[attr-defined]
    load_weights(module, trained)
    return average


@torch.no_grad()
def load_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters of these names.

    Raises UserError when one is missing or of another shape.
    """
    parameters = dict(module.named_parameters())
    for name, value in weights.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise UserError(
                f"The checkpoint has weights of another model ({name}): choose a checkpoint of "
                "this run, with its own base model."
            )
        parameters[name].copy_(value)


@contextmanager
def swap_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Load weights into a module for the duration of a `with` block, and then restore its own."""
    parameters = dict(module.named_parameters())
    original = {name: parameters[name].detach().clone() for name in weights}
    load_weights(module, weights)
    try:
        yield
    finally:
        load_weights(module, original)
