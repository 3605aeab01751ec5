"""Faster linear layers for the few rows that a large model decodes at a time on a CPU.

There PyTorch takes twice as long for two float32 rows as for one, although nearly all of the time
is spent on reading the weights. oneDNN, which PyTorch includes, reads them once for three rows.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration

ARCHITECTURES = ("x86_64", "AMD64")
"""On which it was measured to be faster."""

ROWS = range(2, 9)
"""Numbers of rows; PyTorch is as fast or faster for one row, and for more than these."""

MIN_WIDTH = 1024
"""Least hidden size of the decoder: smaller weights stay in the processor's caches."""


def few_rows(model: Kosmos2ForConditionalGeneration) -> AbstractContextManager[Any]:
    """Return a context for decoding in which `model` computes few rows faster, if it can."""
    supported = platform.machine() in ARCHITECTURES and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )
    float32_cpu = model.device.type == "cpu" and model.dtype == torch.float32
    wide = model.config.text_config.embed_dim >= MIN_WIDTH
    return _FewRows() if supported and float32_cpu and wide else nullcontext()


class _FewRows(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is linear and not kwargs and _is_few_rows(*args[:2]):
            return onednn_linear(*args)
        return func(*args, **(kwargs or {}))


def _is_few_rows(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and type(weight) in (Tensor, torch.nn.Parameter)
        and x.numel() // x.shape[-1] in ROWS
        and not torch.is_grad_enabled()
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b for x [...,in], as `linear` does, by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
