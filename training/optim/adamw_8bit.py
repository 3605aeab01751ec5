"""AdamW with 8-bit states (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization").

A state is stored as uint8 codes [N,256] in blocks of the flattened parameter, and the largest
magnitude of each block, float32 [N,1]; a code is a place in a table of 256 values in -1..1 or 0..1.
Updates are computed in float32. Parameters of fewer than 4096 values keep float32 states.
torchao's implementation needs a compiler on the user's machine, bitsandbytes another package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch.nn import functional

BLOCK = 256
SMALLEST = 4096
"""The values that a parameter must have for 8-bit states, as in the authors' bitsandbytes."""


class AdamW8bit(torch.optim.Optimizer):
    """Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient; return what `closure` returns."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, parameter.grad.float(), self.state[parameter], group)
        return loss


def _update(
    parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    """Equations 6 to 12 of the algorithm."""
    state["step"] = step = state.get("step", 0) + 1
    moments = []
    for name, power, beta in zip(("exp_avg", "exp_avg_sq"), (1, 2), group["betas"], strict=True):
        moment = _read(state, name, gradient).lerp_(gradient**power, 1 - beta)
        _write(state, name, moment)
        moments.append(moment / (1 - beta**step))
    mean, square = moments
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.sub_(group["lr"] * mean / (square.sqrt_() + group["eps"]))


def _read(state: dict[str, Any], name: str, like: torch.Tensor) -> torch.Tensor:
    """The float32 values of a state, of the shape of `like`; zeros at first."""
    if name not in state:
        return torch.zeros_like(like)
    if f"{name}_scale" not in state:
        return state[name]
    table = _table(like.device, signed=name == "exp_avg")
    values = table[state[name].int()] * state[f"{name}_scale"]
    return values.flatten()[: like.numel()].view_as(like)


def _write(state: dict[str, Any], name: str, values: torch.Tensor) -> None:
    if values.numel() < SMALLEST:
        state[name] = values
        return
    blocks = functional.pad(values.flatten(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    table = _table(values.device, signed=name == "exp_avg")
    codes = torch.bucketize(blocks / scale, (table[1:] + table[:-1]) / 2)
    state[name], state[f"{name}_scale"] = codes.to(torch.uint8), scale


@cache
def _table(device: torch.device, *, signed: bool) -> torch.Tensor:
    """The dynamic data type of the paper's appendix: 0, 1, and finer steps towards 0, rising.

    Each power of 10 from 1e-6 to 1 has twice the values of the one below, evenly spaced.
    """
    values = [torch.tensor([0.0, 1.0])]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (power + (not signed)) + 1)
        magnitudes = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (power - 6)
        values += [magnitudes, -magnitudes] if signed else [magnitudes]
    return torch.cat(values).sort().values.to(device)
