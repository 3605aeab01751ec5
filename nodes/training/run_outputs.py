"""What a run made, as sockets carry it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
def trained(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Diffusion:
    """Load what a run made, at a kept checkpoint if one is given, and let ComfyUI move it."""
    from ...training.run.run_results import load_result

    model = load_result(run, dtype, step)
    return replace(model, patcher=host.register_model(model.modules))


def painter(run: RunFolder, step: int | None = None) -> object:
    """Load what a run made; one of captions stands for the sentence that it is no DIFFUSION."""
    if isinstance(read_config(run.config), CaptionConfig):
        return host.block_output(
            f"The run {run.path.name} taught a Kosmos-2: take the output kosmos."
        )
    return trained(run, host.torch_dtype("auto"), step)


@torch.inference_mode(False)
def captioner(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Kosmos:
    """Load the Kosmos-2 that a run of captions made, and let ComfyUI move it."""
    from ...training.captions.caption_results import load_result

    model = load_result(run, dtype, step)
    return replace(model, patcher=host.register_model(model.model))


def captioner_of(run: RunFolder, step: int | None = None) -> object:
    """Load the Kosmos-2 that a run made; one of DreamBooth stands for a sentence instead."""
    if not isinstance(read_config(run.config), CaptionConfig):
        return host.block_output(
            f"The run {run.path.name} taught no Kosmos-2: take the output trained."
        )
    return captioner(run, host.torch_dtype("auto"), step)


def lora_of(run: RunFolder, step: int | None = None) -> object:
    """Load the LoRA that a run made; another method's stands for the sentence that it has none."""
    from safetensors.torch import load_file

    from ...training.run.run_results import result_at

    if isinstance(read_config(run.config), CaptionConfig):
        return host.block_output("This LoRA is for a Kosmos-2: choose it in Load Kosmos-2's loras.")
    config = read_as(TrainingConfig, run.config)
    if config.method not in ("lora", "dora"):
        return host.block_output(
            f"The method {config.method} makes no LoRA: set DreamBoothTrain's method to lora to "
            "get one."
        )
    return load_file(run.lora if step is None else result_at(run, step))
