"""Write a quantized model as the folder that its loader opens again: whole, or not at all."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.save_model import save_folder
from ..kosmos.kosmos_model import Kosmos
from ..shared.atomic_files import atomic_folder
from ..shared.errors import UserError
from .int4_packing import portable_weights
from .quantize_formats import require_torchao
from .quantize_weights import is_quantized

SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By safetensors' names."""


@torch.inference_mode(False)
def save_kosmos(kosmos: Kosmos, folder: Path) -> None:
    """Write a Kosmos-2, quantized or not, as a folder in the hub's layout.

    Raises UserError when the disk is full.
    """
    try:
        with atomic_folder(folder) as draft, as_written(kosmos.model):
            kosmos.model.save_pretrained(draft)
            kosmos.processor.save_pretrained(draft)
    except (OSError, SafetensorError) as reason:
        raise UserError(
            f"{folder} could not be written ({reason}): make room on that disk and queue again."
        ) from reason


@torch.inference_mode(False)
def save_diffusion(diffusion: Diffusion, folder: Path) -> None:
    """Write a Stable Diffusion, quantized or not, as a diffusers folder.

    Raises UserError when the disk is full.
    """
    with as_written(diffusion.modules):
        save_folder(diffusion, folder)


def as_written(module: nn.Module) -> AbstractContextManager[None]:
    """Hold a module's weights, for a while, as any computer can read them from a file."""
    return portable_weights(module) if is_quantized(module) else nullcontext()


def unquantized_dtype(folder: Path) -> torch.dtype | None:
    """Return the precision of what is not quantized in a model's folder; None if nothing is.

    What is wrong with a file is left for the loader to say. Raises UserError when the package
    that reads quantized weights is missing.
    """
    for place in (folder, folder / "unet"):
        if _is_quantized(place / "config.json"):
            require_torchao(f'The quantized model "{folder.name}"')
            return _precision(place)
    return None


def _is_quantized(config: Path) -> bool:
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and "quantization_config" in said


def _precision(folder: Path) -> torch.dtype:
    """The precision of the first tensor in a folder that no quantized weight is made of."""
    for file in sorted(folder.glob("*.safetensors")):
        with suppress(SafetensorError, OSError), safe_open(file, framework="pt") as held:
            for key in held.keys():  # noqa: SIM118
                if "._weight_" not in key:
                    return SAFETENSORS_DTYPES[held.get_slice(key).get_dtype()]
    return torch.bfloat16
