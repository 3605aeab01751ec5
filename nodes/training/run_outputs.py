"""The models that a run trained, as outputs of nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ...training.captions.caption_config import CaptionConfig
from ...training.config import TrainingConfig
from ...training.config_yaml import read_as, read_config
from ...training.run.run_folder import RunFolder
from .. import host

if TYPE_CHECKING:
    from ...diffusion.diffusion_model import Diffusion
    from ...kosmos.kosmos_model import Kosmos


@torch.inference_mode(False)
def load_trained_diffusion(
    run: RunFolder, dtype: torch.dtype, step: int | None = None
) -> Diffusion:
    """Load the result of a DreamBooth run, or its checkpoint of a step, and register it."""
    from ...training.run.run_results import load_result

    model = load_result(run, dtype, step)
    host.cast_vae(model.vae)
    return replace(model, patcher=host.register_model(model.modules))


@torch.inference_mode(False)
def load_trained_kosmos(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Kosmos:
    """Load the result of a run of captions, or its checkpoint of a step, and register it."""
    from ...training.captions.caption_results import load_result

    model = load_result(run, dtype, step)
    return replace(model, patcher=host.register_model(model.model))


def diffusion_output(
    run: RunFolder, step: int | None = None, dtype: torch.dtype | None = None
) -> object:
    """Return the run's DIFFUSION; a run on another kind of model blocks it with a message."""
    if isinstance(read_config(run.config), CaptionConfig):
        return host.block_output(
            f"The run {run.path.name} trained a Kosmos-2: use the output kosmos."
        )
    if read_as(TrainingConfig, run.config).uses_comfyui:
        return host.block_output(
            f"The run {run.path.name} trained a MODEL: use the output model or lora."
        )
    return load_trained_diffusion(run, dtype or host.torch_dtype("auto"), step)


def model_output(run: RunFolder, model: Any) -> object:
    """Return a MODEL with the run's LoRA on it, or the one that was trained fully.

    A run on a DIFFUSION blocks the output with a message.
    """
    from safetensors.torch import load_file

    if model is None:
        return host.block_output(
            f"The run {run.path.name} trained a DIFFUSION: use the output trained, with To Comfy "
            "Model to get a MODEL."
        )
    if read_as(TrainingConfig, run.config).method == "full":
        return host.load_diffusion_model(run.core_model)
    return host.with_lora(model, load_file(run.lora))


def kosmos_output(run: RunFolder, step: int | None = None) -> object:
    """Return the run's KOSMOS; a DreamBooth run blocks the output with a message."""
    if not isinstance(read_config(run.config), CaptionConfig):
        return host.block_output(
            f"The run {run.path.name} trained no Kosmos-2: use the output trained."
        )
    return load_trained_kosmos(run, host.torch_dtype("auto"), step)


def lora_output(run: RunFolder, step: int | None = None) -> object:
    """Return the run's LORA_MODEL; a run without one blocks the output with a message."""
    from ...training.run.checkpoints import read_tensors
    from ...training.run.run_results import result_at

    if isinstance(read_config(run.config), CaptionConfig):
        return host.block_output("This LoRA is for a Kosmos-2: choose it in Load Kosmos-2's loras.")
    config = read_as(TrainingConfig, run.config)
    if config.method in ("full", "embedding"):
        return host.block_output(
            f"The method {config.method} makes no LoRA: set DreamBoothTrain's method to lora to "
            "get one."
        )
    return read_tensors(result_at(run, config.steps if step is None else step))
