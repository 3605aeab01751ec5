"""A whole KOSMOS or DIFFUSION, quantized."""

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
from .quantize_weights import LayerSelection, quantized_copy, require_unquantized, select_layers

Whole = TypeVar("Whole", Kosmos, Diffusion)
Part = TypeVar("Part", bound=nn.Module)

KEEP_LAYERS = ("lm_head", "time_emb")
"""The layer that writes a language model's words, and those that tell a UNet the time: few weights,
and all that follows rests on them."""

BEFORE = "connect the model as it was before, or use it as it is"
"""What to do with a model that is quantized already."""


@dataclass(frozen=True)
class QuantizedModel(Generic[Whole]):
    """A model in a format: names of its layers that are quantized, and of those left alone."""

    model: Whole
    format: str
    layers: LayerSelection


OnLayer = Callable[[], None]


def quantize_kosmos(
    kosmos: Kosmos,
    name: str,
    keep: Sequence[str] = KEEP_LAYERS,
    rest: torch.dtype | None = None,
    work: CalibrationRun | None = None,
    on_layer: OnLayer = lambda: None,
) -> QuantizedModel[Kosmos]:
    """Return a copy of a Kosmos-2 in one of FORMATS; vision tower, connector and decoder are taken.

    keep: layers whose name holds one of these words are left alone. rest: what all that is not
    quantized is cast to; None leaves it. work: what a calibrated format is to be good at, done with
    this model. on_layer: called for each layer that is ready. The copy has no `patcher`.

    Raises UserError when the model is quantized already, when nothing is left to quantize, and
    when the device cannot compute with the format.
    """
    if isinstance(kosmos.model, SupportsImageEncoding):
        raise UserError(
            f"{kosmos.name} is an export and cannot be quantized: connect the model it was made of."
        )
    require_unquantized(kosmos.model, kosmos.name, BEFORE)
    layers = select_layers(kosmos.model, name, keep)
    _require_any(layers, name)
    inputs = _inputs(kosmos.model, name, layers.quantized, work)
    model = _part(kosmos.model, name, layers, rest, inputs, on_layer)
    made = replace(kosmos, model=model, name=f"{kosmos.name} ({name})", patcher=None)
    return QuantizedModel(made, name, layers)


def quantize_diffusion(
    diffusion: Diffusion,
    name: str,
    keep: Sequence[str] = KEEP_LAYERS,
    rest: torch.dtype | None = None,
    work: CalibrationRun | None = None,
    on_layer: OnLayer = lambda: None,
) -> QuantizedModel[Diffusion]:
    """Return a copy of a Stable Diffusion in one of FORMATS, its UNet and text encoders taken.

    The VAE is cast but never quantized: it runs once a picture, is mostly convolutions, and shows
    every error. Otherwise as `quantize_kosmos`.
    """
    require_unquantized(diffusion.modules, diffusion.name, BEFORE)
    chosen = {
        place: LayerSelection((), ()) if place == "vae" else select_layers(module, name, keep)
        for place, module in diffusion.modules.items()
    }
    taken = LayerSelection(
        tuple(f"{place}.{path}" for place, part in chosen.items() for path in part.quantized),
        tuple(f"{place}.{path}" for place, part in chosen.items() for path in part.left),
    )
    _require_any(taken, name)
    inputs = _inputs(diffusion.modules, name, taken.quantized, work)
    parts: dict[str, Any] = {}
    for place, module in diffusion.modules.items():
        if place == "vae":
            parts[place] = quantized_copy(module, name, (), rest)
            continue
        below = {
            path.removeprefix(f"{place}."): rows
            for path, rows in inputs.items()
            if path.startswith(f"{place}.")
        }
        parts[place] = _part(module, name, chosen[place], rest, below, on_layer)
    made = replace(diffusion, name=f"{diffusion.name} ({name})", patcher=None, **parts)
    return QuantizedModel(made, name, taken)


def _inputs(
    module: nn.Module, name: str, layers: Sequence[str], work: CalibrationRun | None
) -> LayerInputs:
    """What a calibrated format wants to know; nothing for any other."""
    if not QUANTIZE_FORMATS[name].calibrated:
        return {}
    require_format(name, next(module.parameters()).device)
    if work is None:
        raise ValueError(f"{name} has to see the model at work.")
    with record_layer_inputs(module, layers) as found:
        work()
    return found


def _part(
    model: Part,
    name: str,
    layers: LayerSelection,
    rest: torch.dtype | None,
    inputs: LayerInputs,
    on_layer: OnLayer,
) -> Part:
    made = quantized_copy(model, name, layers.quantized, rest, inputs, on_layer)
    set_quantization_config(made, name, layers.left)
    return made


def _require_any(layers: LayerSelection, name: str) -> None:
    if QUANTIZE_FORMATS[name].recipe is not None and not layers.quantized:
        raise UserError(
            f'No layer is left to quantize to {name}: take words out of "keep", or choose the '
            "format bf16."
        )
