"""Gradients for ComfyUI's fused kernels of rotary embeddings, which it has for inference only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

PREFIXES = ("rms_rope", "apply_rope")


def register_gradients() -> None:
    """Give each kernel the gradient of comfy-kitchen's own code for it in PyTorch.

    Most models of ComfyUI avoid the kernels in training, but Cosmos Predict2 and Anima do not.
    """
    try:
        from comfy_kitchen.backends.eager import rope  # since ComfyUI 0.16
    except ImportError:
        return
    for name, function in vars(rope).items():
        writes_in_place = name.endswith("_")
        known = name.startswith(PREFIXES) and hasattr(torch.ops.comfy_kitchen, name)
        if known and not writes_in_place:
            _register(f"comfy_kitchen::{name}", function)


def _register(kernel: str, function: Callable[..., Any]) -> None:
    def keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, torch.Tensor)))
        ctx.others = [None if isinstance(x, torch.Tensor) else (x,) for x in inputs]

    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved).detach() if other is None else other[0] for other in ctx.others]
        # Arguments that were left to their defaults have no entry.
        trained = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
        with torch.enable_grad():
            for x in trained:
                x.requires_grad_()
            outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = iter(torch.autograd.grad(outputs, trained, gradients))
        return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)

    torch.library.register_autograd(kernel, backward, setup_context=keep_inputs)
