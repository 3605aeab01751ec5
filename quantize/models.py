"""A whole KOSMOS or DIFFUSION, quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..diffusion.model import Diffusion
from ..errors import MendableError
from ..kosmos.model import Kosmos, Looking
from .formats import FORMATS
from .labels import label
from .weights import Taken, choose_layers, quantized_copy, require_plain

Whole = TypeVar("Whole", Kosmos, Diffusion)
Part = TypeVar("Part", bound=nn.Module)

KEEP = ("lm_head", "time_emb")
"""The layer that writes a language model's words, and those that tell a UNet the time: few weights,
and all that follows rests on them."""


@dataclass(frozen=True)
class Quantized(Generic[Whole]):
    """A model in a format: names of its layers that are quantized, and of those left alone."""

    model: Whole
    format: str
    layers: Taken


def quantize_kosmos(
    kosmos: Kosmos, name: str, keep: Sequence[str] = KEEP, rest: torch.dtype | None = None
) -> Quantized[Kosmos]:
    """Return a copy of a Kosmos-2 in one of FORMATS; vision tower, connector and decoder are taken.

    keep: layers whose name holds one of these words are left alone. rest: what all that is not
    quantized is cast to; None leaves it. The copy has no `home`.

    Raises MendableError when the model is quantized already, when nothing is left to quantize, and
    when the device cannot compute with the format.
    """
    if isinstance(kosmos.model, Looking):
        raise MendableError(
            f"{kosmos.name} is an export and cannot be quantized: connect the model it was made of."
        )
    model, layers = _part(kosmos.model, kosmos.name, name, keep, rest)
    _require_any(layers, name)
    made = replace(kosmos, model=model, name=f"{kosmos.name} ({name})", home=None)
    return Quantized(made, name, layers)


def quantize_diffusion(
    diffusion: Diffusion, name: str, keep: Sequence[str] = KEEP, rest: torch.dtype | None = None
) -> Quantized[Diffusion]:
    """Return a copy of a Stable Diffusion in one of FORMATS, its UNet and text encoders taken.

    The VAE is cast but never quantized: it runs once a picture, is mostly convolutions, and shows
    every error. Otherwise as `quantize_kosmos`.
    """
    parts: dict[str, Any] = {}
    quantized: list[str] = []
    left: list[str] = []
    for place, module in diffusion.modules.items():
        if place == "vae":
            parts[place] = quantized_copy(module, name, (), rest)
            continue
        parts[place], layers = _part(module, diffusion.name, name, keep, rest)
        quantized += [f"{place}.{layer}" for layer in layers.quantized]
        left += [f"{place}.{layer}" for layer in layers.left]
    taken = Taken(tuple(quantized), tuple(left))
    _require_any(taken, name)
    made = replace(diffusion, name=f"{diffusion.name} ({name})", home=None, **parts)
    return Quantized(made, name, taken)


def _part(
    model: Part, known_as: str, name: str, keep: Sequence[str], rest: torch.dtype | None
) -> tuple[Part, Taken]:
    require_plain(model, known_as, "connect the model as it was before, or use it as it is")
    layers = choose_layers(model, name, keep)
    made = quantized_copy(model, name, layers.quantized, rest)
    label(made, name, layers.left)
    return made, layers


def _require_any(layers: Taken, name: str) -> None:
    if FORMATS[name].recipe is not None and not layers.quantized:
        raise MendableError(
            f'No layer is left to quantize to {name}: take words out of "keep", or choose the '
            "format bf16."
        )
