"""Quantize a whole model: KOSMOS or DIFFUSION."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..diffusion.diffusion_model import Diffusion
from ..kosmos.kosmos_model import Kosmos, SupportsImageEncoding
from ..shared.errors import UserError
from .calibration import CalibrationRun, LayerInputs, record_layer_inputs
from .hf_quantization_config import set_quantization_config
from .quantize_formats import QUANTIZE_FORMATS, require_format
from .quantize_weights import (
    KEEP_LAYERS,
    LayerSelection,
    quantized_copy,
    require_unquantized,
    select_layers,
)

Model = TypeVar("Model", Kosmos, Diffusion)

UNQUANTIZED_REMEDY = "connect the original model, or use the quantized one unchanged"


@dataclass(frozen=True)
class QuantizedModel(Generic[Model]):
    """A quantized model and the names of its linear layers that are quantized or skipped."""

    model: Model
    layers: LayerSelection


def quantize_kosmos(
    kosmos: Kosmos,
    name: str,
    keep: Sequence[str] = KEEP_LAYERS,
    other_dtype: torch.dtype | None = None,
    calibration_run: CalibrationRun | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> QuantizedModel[Kosmos]:
    """Return a quantized copy of a Kosmos-2: vision tower, connector and decoder.

    name: one of QUANTIZE_FORMATS. keep: layers whose name contains one of these texts are skipped.
    other_dtype: what all other weights are cast to; None keeps them. calibration_run: runs this
    model on calibration data; required by a calibrated format. on_layer: called after each
    quantized layer. The copy has no `patcher`.

    Raises UserError when the model is quantized or exported, when no layer is selected, and when
    the device does not support the format.
    """
    if isinstance(kosmos.model, SupportsImageEncoding):
        raise UserError(
            f"{kosmos.name} is an export and cannot be quantized: connect the model that it was "
            "exported from."
        )
    require_unquantized(kosmos.model, kosmos.name, UNQUANTIZED_REMEDY)
    layers = select_layers(kosmos.model, name, keep)
    inputs = _calibration_inputs(kosmos.model, name, layers, calibration_run)
    model = quantized_copy(kosmos.model, name, layers.quantized, other_dtype, inputs, on_layer)
    set_quantization_config(model, name, layers.skipped)
    quantized = replace(kosmos, model=model, name=f"{kosmos.name} ({name})", patcher=None)
    return QuantizedModel(quantized, layers)


def quantize_diffusion(
    diffusion: Diffusion,
    name: str,
    keep: Sequence[str] = KEEP_LAYERS,
    other_dtype: torch.dtype | None = None,
    calibration_run: CalibrationRun | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> QuantizedModel[Diffusion]:
    """Return a quantized copy of a Stable Diffusion: UNet and text encoders.

    The VAE is only cast: it runs once for an image, is mostly convolutions, and its errors are
    visible. Arguments and errors are those of `quantize_kosmos`.
    """
    require_unquantized(diffusion.modules, diffusion.name, UNQUANTIZED_REMEDY)
    selections = {
        part: LayerSelection() if part == "vae" else select_layers(module, name, keep)
        for part, module in diffusion.modules.items()
    }
    layers = LayerSelection(
        tuple(f"{part}.{path}" for part, each in selections.items() for path in each.quantized),
        tuple(f"{part}.{path}" for part, each in selections.items() for path in each.skipped),
    )
    inputs = _calibration_inputs(diffusion.modules, name, layers, calibration_run)
    modules: dict[str, Any] = {}
    for part, module in diffusion.modules.items():
        selection, prefix = selections[part], f"{part}."
        part_inputs = {
            path.removeprefix(prefix): rows
            for path, rows in inputs.items()
            if path.startswith(prefix)
        }
        modules[part] = quantized_copy(
            module, name, selection.quantized, other_dtype, part_inputs, on_layer
        )
        if part != "vae":
            set_quantization_config(modules[part], name, selection.skipped)
    quantized = replace(diffusion, name=f"{diffusion.name} ({name})", patcher=None, **modules)
    return QuantizedModel(quantized, layers)


def _calibration_inputs(
    module: nn.Module, name: str, layers: LayerSelection, calibration_run: CalibrationRun | None
) -> LayerInputs:
    """Return the recorded inputs of the quantized layers for a calibrated format, else {}.

    Raises UserError when the format quantizes and no layer is selected.
    """
    if QUANTIZE_FORMATS[name].config is not None and not layers.quantized:
        raise UserError(
            f'No layer is left to quantize to {name}: remove entries from "keep", or choose the '
            "format bf16."
        )
    if not QUANTIZE_FORMATS[name].calibrated:
        return {}
    require_format(name, next(module.parameters()).device)
    if calibration_run is None:
        raise ValueError(f"The format {name} needs a calibration_run.")
    with record_layer_inputs(module, layers.quantized) as inputs:
        calibration_run()
    return inputs
