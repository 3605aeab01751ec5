"""Quantization-aware training (QAT) of models that adapters may be added to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import nn

from ..quantize.quantize_formats import require_torchao
from .config import NO_QAT

Result = TypeVar("Result")


def prepare_qat(
    quant_format: str, models: Iterable[nn.Module], adapt: Callable[[], Result]
) -> Result:
    """Prepare models for QAT, call `adapt`, which may add adapters, and return its result.

    With adapters the sum of weight and adapter is fake-quantized. `quant_format` is one of
    `config.QAT_FORMATS`; NO_QAT only calls `adapt`. Raises UserError when torchao is missing.
    """
    if quant_format == NO_QAT:
        return adapt()
    require_torchao('The setting "quantization_aware"')
    from ..quantize.qat import include_adapters, prepare_qat

    for model in models:
        prepare_qat(model, quant_format)
    result = adapt()
    for model in models:
        include_adapters(model)
    return result
