"""Open the base model of a run with ComfyUI, as the node that gave the MODEL did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.sd
import torch

from ..config import TrainingConfig
from .core_model import DISCRETE_SCHEDULES, CoreModel, discrete_schedule
from .model_from_diffusion import model_from_diffusion
from .weights_dtype import weights_dtype

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


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
    stored = weights_dtype(Path(config.base))
    options = {"dtype": stored if stored in FLOAT8 else dtype}
    if config.loader == "CheckpointLoaderSimple":
        loaded = comfy.sd.load_checkpoint_guess_config(
            config.base, output_vae=False, output_clip=False, model_options=options
        )
        return loaded[0].model
    return comfy.sd.load_diffusion_model(config.base, model_options=options).model
