"""Open the base model of a run with ComfyUI, as the node that gave the MODEL did."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.sd
import torch
from safetensors import SafetensorError, safe_open

from ..config import TrainingConfig
from .core_model import DISCRETE_SCHEDULES, CoreModel, discrete_schedule
from .model_from_diffusion import model_from_diffusion

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion

FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""The names of dtypes in safetensors files."""
SCALES = ("scale_weight", "weight_scale", "comfy_quant", "scaled_fp8")
"""Names of what ComfyUI's kinds of quantized files have next to the weights."""


def open_model(
    config: TrainingConfig, dtype: torch.dtype, diffusion: Diffusion | None
) -> CoreModel:
    """Return the run's base model on the CPU, which computes in `dtype`, as its weights are.

    The weights of a file that is quantized, or in float8, stay so. `diffusion` is the DIFFUSION
    that ToComfyModel converted.
    """
    opened = _open(config, dtype, diffusion)
    if opened.manual_cast_dtype is not None:
        opened.manual_cast_dtype = dtype
    if diffusion is None and config.prediction in DISCRETE_SCHEDULES:
        opened.model_sampling = discrete_schedule(opened.model_config, config.prediction)
    model = CoreModel(opened)
    if config.shift:
        model.set_shift(config.shift)
    return model


def _open(config: TrainingConfig, dtype: torch.dtype, diffusion: Diffusion | None) -> Any:
    if diffusion is not None:
        return model_from_diffusion(diffusion).model
    options = {"dtype": float8_dtype(Path(config.base)) or dtype}
    if config.loader == "CheckpointLoaderSimple":
        loaded = comfy.sd.load_checkpoint_guess_config(
            config.base, output_vae=False, output_clip=False, model_options=options
        )
        return loaded[0].model
    return comfy.sd.load_diffusion_model(config.base, model_options=options).model


def float8_dtype(file: Path) -> torch.dtype | None:
    """Return the float8 dtype of a file's weights, if most have one, without scales; else None."""
    sizes: Counter[str] = Counter()
    try:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                if name.endswith(SCALES):
                    return None  # ComfyUI knows by the scales which layers are quantized
                part = weights.get_slice(name)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    except (SafetensorError, OSError):
        return None  # an older kind of file, without float8
    return FLOAT8.get(max(sizes, key=sizes.__getitem__, default=""))
