"""Quantization-aware training: what is learned bears the rounding that comes afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch import nn

from ..quantize.quantize_formats import require_torchao
from .config import NO_QAT

Result = TypeVar("Result")


def prepare_qat(name: str, models: Iterable[nn.Module], adapt: Callable[[], Result]) -> Result:
    """Return what `adapt` does to models which from then on feel the rounding of a format.

    name: one of `config.QAT_FORMATS`; NO_QAT only adapts. Quantize does that rounding to the result.

    Raises UserError when torchao is missing.
    """
    if name == NO_QAT:
        return adapt()
    require_torchao('The setting "quantization_aware"')
    from ..quantize.qat import include_adapters, prepare_qat

    for model in models:
        prepare_qat(model, name)
    made = adapt()
    for model in models:
        include_adapters(model)
    return made


def fake_quantization_disabled(name: str, model: nn.Module) -> AbstractContextManager[None]:
    """Let a model compute with its weights as they are for a while."""
    if name == NO_QAT:
        return nullcontext()
    from ..quantize.qat import fake_quantization_disabled

    return fake_quantization_disabled(model)
