"""Linear layers of large models for the few rows that are written at a time on a CPU.

There PyTorch multiplies two or three float32 rows in two or three times the time of one, although
nearly all of it goes into reading the weights. oneDNN, which PyTorch carries, reads them once for
three rows.
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

MACHINES = ("x86_64", "AMD64")
"""Where it was measured."""

ROWS = range(2, 9)
"""So many rows; one by itself, and more than these, PyTorch multiplies as fast or faster."""

WIDE = 1024
"""Numbers in a state of the decoder, at least: smaller weights stay in the processor's caches."""


def few_rows(model: Kosmos2ForConditionalGeneration) -> AbstractContextManager[Any]:
    """Return a context in which a decoder computes few rows faster, where this is such a model."""
    there = platform.machine() in MACHINES and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    fits = model.device.type == "cpu" and model.dtype == torch.float32
    wide = model.config.text_config.embed_dim >= WIDE
    return _FewRows() if there and fits and wide else nullcontext()


class _FewRows(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is linear and not kwargs and _plain(*args[:2]):
            return multiply(*args)
        return func(*args, **(kwargs or {}))


def _plain(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and type(weight) in (Tensor, torch.nn.Parameter)
        and x.numel() // x.shape[-1] in ROWS
        and not torch.is_grad_enabled()
    )


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b for x [...,in], as `linear` does, by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
