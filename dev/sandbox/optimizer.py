"""The optimizer of the sandbox's trainings: Muon for matrices and kernels, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MuonAdamW:
    """Muon (Jordan et al. 2024) for weights of two and more dimensions, AdamW for all others.

    A convolution's kernel [O,I,H,W] is optimized as the matrix [O,I*H*W]. Embeddings and the
    layers named in `without_muon` get AdamW. Updates are scaled to AdamW's root mean square
    (Liu et al. 2025, arXiv:2502.16982, equation 4), so both parts share one learning rate.

    modules: each module with the share of the learning rate that its parameters get.
    """

    def __init__(
        self,
        modules: Iterable[tuple[nn.Module, float]],
        betas: tuple[float, float],
        weight_decay: float,
        without_muon: Iterable[nn.Module] = (),
    ) -> None:
        self.kernels: list[tuple[nn.Parameter, nn.Parameter]] = []
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        excluded = {id(p) for module in without_muon for p in module.parameters()}
        for module, share in modules:
            excluded |= {
                id(p)
                for layer in module.modules()
                if isinstance(layer, nn.Embedding)
                for p in layer.parameters()
            }
            trained = [p for p in module.parameters() if p.requires_grad]
            kernels = [p for p in trained if p.ndim >= 2 and id(p) not in excluded]
            # The matrix shares the kernel's storage: a step of Muon changes the kernel.
            pairs = [(p, nn.Parameter(p.detach().flatten(1))) for p in kernels]
            self.kernels += pairs
            matrices.append({"params": [matrix for _, matrix in pairs], "share": share})
            chosen = {id(p) for p in kernels}
            others.append({"params": [p for p in trained if id(p) not in chosen], "share": share})
        self.parts = (
            torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, betas=betas, weight_decay=weight_decay),
        )
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.parameters = [p for p, _ in self.kernels]
        self.parameters += [p for group in others for p in group["params"]]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Take one step of both optimizers."""
        for kernel, matrix in self.kernels:
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states."""
        return {str(k): part.state_dict() for k, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load both optimizers' states."""
        for k, part in enumerate(self.parts):
            part.load_state_dict(state[str(k)])
        self.param_groups[:] = [group for part in self.parts for group in part.param_groups]
