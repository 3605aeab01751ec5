"""Save a model, quantized or not, atomically as a folder that its loader reads."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.save_model import save_folder
from ..kosmos.kosmos_model import Kosmos
from ..shared.atomic_files import atomic_folder
from ..shared.json_files import parse_json, read_small_text
from .int4_packing import portable_weights
from .quantize_formats import require_torchao

SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@torch.inference_mode(False)
def save_kosmos(kosmos: Kosmos, folder: Path) -> None:
    """Save a Kosmos-2, quantized or not, as a folder in the hub's layout.

    Raises UserError when the folder cannot be written.
    """
    with atomic_folder(folder) as draft, portable_weights(kosmos.model):
        kosmos.model.save_pretrained(draft)
        kosmos.processor.save_pretrained(draft)


@torch.inference_mode(False)
def save_diffusion(diffusion: Diffusion, folder: Path) -> None:
    """Save a Stable Diffusion, quantized or not, as a diffusers folder.

    Raises UserError when the folder cannot be written.
    """
    with portable_weights(diffusion.modules):
        save_folder(diffusion, folder)


def unquantized_dtype(folder: Path) -> torch.dtype | None:
    """Return the dtype of the unquantized weights in a quantized model's folder.

    Returns None for a folder without a quantized model. Damaged files are left to the loader to
    report. Raises UserError when the package that reads quantized weights is missing.
    """
    for part in (folder, folder / "unet"):
        if _has_quantization_config(part / "config.json"):
            require_torchao(f'The quantized model "{folder.name}"')
            return _unquantized_dtype(part)
    return None


def _has_quantization_config(file: Path) -> bool:
    try:
        config = parse_json(read_small_text(file))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "quantization_config" in config


def _unquantized_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of the first tensor of floats that is not part of a quantized weight."""
    for path in sorted(folder.glob("*.safetensors")):
        with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                dtype = SAFETENSORS_DTYPES.get(file.get_slice(key).get_dtype())
                if "._weight_" not in key and dtype is not None:
                    return dtype
    return torch.bfloat16
