"""Write a model as one checkpoint file, or as a diffusers folder: whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..shared.errors import UserError
from .diffusion_model import Diffusion
from .load.checkpoint_file import PREDICTS_V, ZERO_SNR
from .load.detect_checkpoint import KINDS, SD1
from .load.ldm_keys import checkpoint_weights
from .load.model_parts import read_json
from .sample.schedulers import is_flow

# What a configuration says and a checkpoint does not depend on.
FREE = {
    "_class_name",
    "model_type",
    "sample_size",
    "force_upcast",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}


def save_checkpoint(
    diffusion: Diffusion,
    file: Path,
    architecture: Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a .safetensors file in the original layout, in the precision of the UNet.

    architecture: folder of diffusers configurations that the model has to fit, for a checkpoint
        says nothing of its own; None finds that of its kind.
    metadata: what the file's head says besides, such as where the model came from.

    Raises UserError for a model of another architecture, and when the disk is full.
    """
    misfit = checkpoint_misfit(diffusion, architecture)
    if misfit:
        raise UserError(f"{misfit}: choose the format diffusers.")
    weights = {
        key: weight.detach().to("cpu", diffusion.dtype).contiguous()
        for key, weight in checkpoint_weights(diffusion).items()
    }
    if diffusion.text_encoder_2 is not None:
        weights |= {key: torch.empty(0) for key in _says(diffusion.scheduler_config)}
    with _whole(file) as draft:
        save_file(weights, draft, metadata={"format": "pt", **(metadata or {})})


def checkpoint_misfit(diffusion: Diffusion, architecture: Path | None = None) -> str:
    """Say why a checkpoint cannot hold a model, without a full stop; "" when it can."""
    if is_flow(diffusion.scheduler_config):
        return f"{diffusion.name} predicts a flow, and a checkpoint cannot say so"
    found = architecture or KINDS.get(diffusion.unet.config.cross_attention_dim, SD1)
    for part, module in diffusion.modules.items():
        config = module.config
        for name, wanted in read_json(found / part / "config.json").items():
            if name not in FREE and _plain(getattr(config, name)) != wanted:
                return (
                    f"{diffusion.name} is no Stable Diffusion 1.x, 2.x or XL (its {part} has "
                    f"{name} {_plain(getattr(config, name))}), and a checkpoint can hold nothing "
                    "else"
                )
    return ""


def save_folder(diffusion: Diffusion, folder: Path) -> None:
    """Write a folder that diffusers' pipeline reads, in the model's precision.

    Raises UserError when the disk is full.
    """
    pipeline = make_pipeline(diffusion)
    with _whole(folder) as draft:
        pipeline.save_pretrained(draft)


def make_pipeline(diffusion: Diffusion) -> DiffusionPipeline:
    """diffusers' own pipeline around a model's modules, without a safety checker."""
    parts = {
        "unet": diffusion.unet,
        "vae": diffusion.vae,
        "text_encoder": diffusion.text_encoder,
        "tokenizer": diffusion.tokenizer,
        "scheduler": _scheduler(diffusion.scheduler_config),
        "feature_extractor": None,
    }
    if diffusion.text_encoder_2 is None:
        return StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)
    second = {"text_encoder_2": diffusion.text_encoder_2, "tokenizer_2": diffusion.tokenizer_2}
    return StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)


def _scheduler(config: dict[str, Any]) -> SchedulerMixin:
    """A scheduler that says all that a model's configuration does."""
    if is_flow(config):  # its scheduler names no prediction
        own = {key: value for key, value in config.items() if key != "prediction_type"}
        return FlowMatchEulerDiscreteScheduler.from_config(own)
    return DDIMScheduler.from_config(config)


def _says(scheduler: dict[str, Any]) -> Iterator[str]:
    """The keys by which an XL checkpoint says what its model predicts."""
    if scheduler.get("prediction_type") == "v_prediction":
        yield PREDICTS_V
        if scheduler.get("rescale_betas_zero_snr"):
            yield ZERO_SNR


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a place to write to, which becomes `path` when all is written."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except (OSError, SafetensorError) as reason:
        raise UserError(
            f"{path} could not be written ({reason}): make room on that disk and queue again."
        ) from reason
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Configurations hold tuples or lists, as they were made or read."""
    return list(value) if isinstance(value, tuple) else value
