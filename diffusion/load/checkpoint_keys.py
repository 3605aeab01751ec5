"""Read a checkpoint's tensors by their original (LDM) keys, whatever wrote the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from ...shared.errors import UserError
from ...shared.json_files import parse_json
from .ldm_keys import UNET, unet_weights
from .model_parts import read_json

WRAPPERS = ("state_dict.", "module.", "_orig_mod.")
"""Prefixes of all keys, by Lightning, DistributedDataParallel and torch.compile."""

EMA = "model_ema."
FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")
SCALES = (".scale_weight", ".weight_scale")
"""Suffixes, in place of `.weight`, of the factors of fp8 weights: ComfyUI's older and newer."""

QUANTIZATION_KEYS = (*SCALES, ".scale_input", ".input_scale", ".comfy_quant")


def original_keys(keys: Iterable[str], architectures: Iterable[Path]) -> dict[str, str]:
    """Return the keys of a file by the original keys that they stand for.

    Wrappers' prefixes are removed, and the averaged weights of a file that has no others,
    `model_ema.diffusion_modelinput_blocks00weight`, get the keys of the weights.
    architectures: folders of configurations that name the weights.
    """
    names = {key: key for key in keys}
    for wrapper in WRAPPERS:
        if any(key.startswith(wrapper) for key in names):
            names = {key.removeprefix(wrapper): name for key, name in names.items()}
    has_weights = any(key.startswith(UNET) for key in names)
    if not has_weights and any(key.startswith(EMA) for key in names):
        averaged = _averaged_keys(architectures)
        names = {averaged.get(key, key): name for key, name in names.items()}
    return names


def _averaged_keys(architectures: Iterable[Path]) -> dict[str, str]:
    """The keys of averaged weights, which have no dots, and the original keys."""
    keys = {}
    for folder in architectures:
        with init_empty_weights():
            config = read_json(folder / "unet" / "config.json")
            unet = UNet2DConditionModel.from_config(config)
        for name in unet_weights(unet):
            key = UNET + name
            keys[EMA + key.removeprefix("model.").replace(".", "")] = key
    return keys


def read_checkpoint(
    file: Path, architectures: Iterable[Path], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors by their original keys; scaled fp8 weights become `dtype`.

    Raises UserError for weights that are quantized in another way.
    """
    tensors = load_file(file)
    weights = {key: tensors[name] for key, name in original_keys(tensors, architectures).items()}
    for key in [key for key in weights if key.endswith(".comfy_quant")]:
        settings = parse_json(bytes(weights[key].tolist()).decode("utf-8", "replace"))
        kind = settings.get("format") if isinstance(settings, dict) else None
        if kind not in FP8_FORMATS:
            raise UserError(
                f'{file.name} is quantized as "{kind}", which only ComfyUI\'s own loaders read: '
                "choose a checkpoint in fp16, bf16, fp32 or fp8."
            )
    for suffix in SCALES:
        for key in [key for key in weights if key.endswith(suffix)]:
            layer = key.removesuffix(suffix) + ".weight"
            if layer in weights:
                weights[layer] = _scaled(weights[layer], weights[key]).to(dtype)
    return {
        key: weight
        for key, weight in weights.items()
        if not key.endswith(QUANTIZATION_KEYS) and key.rpartition(".")[2] != "scaled_fp8"
    }


def _scaled(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weight times its scale, one for all or one for each row."""
    factor = scale.float()
    return weight.float() * (
        factor if factor.numel() == 1 else factor.reshape(-1, *[1] * (weight.ndim - 1))
    )
