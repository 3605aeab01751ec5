"""Save a model as one checkpoint file or as a diffusers folder, atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import save_file

from ..shared.atomic_files import atomic_folder, atomic_write, write_text
from ..shared.errors import UserError
from .diffusion_model import Diffusion
from .load.checkpoint_file import SCHEDULER_ENTRY, V_PRED_KEY, ZTSNR_KEY
from .load.detect_checkpoint import CONFIG_BY_PROMPT_WIDTH, SD1
from .load.ldm_keys import checkpoint_weights
from .load.model_parts import read_json
from .sample.schedulers import is_flow

PIPELINES = StableDiffusionPipeline, StableDiffusionInpaintPipeline
XL_PIPELINES = StableDiffusionXLPipeline, StableDiffusionXLInpaintPipeline
ONE_FILE = "1TB"
"""Shard size of saved folders: one file per part, as core's diffusers loader expects."""
# Configuration entries that may differ from the architecture's.
IGNORED_CONFIG_KEYS = {
    "_class_name",
    "in_channels",
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
    """Write a .safetensors file in the original layout, in the UNet's dtype.

    architecture: folder of diffusers configurations that the model must fit, because a checkpoint
        contains none; None selects one by the model's prompt width.
    metadata: further entries of the file's header.

    Raises UserError for a model of another architecture, and when the disk is full.
    """
    problem = checkpoint_incompatibility(diffusion, architecture)
    if problem:
        raise UserError(f"{problem}: choose the format diffusers.")
    weights = {
        key: weight.detach().to("cpu", diffusion.dtype).contiguous()
        for key, weight in checkpoint_weights(diffusion).items()
    }
    weights |= {key: torch.empty(0) for key in _prediction_keys(diffusion.scheduler_config)}
    entries = {"format": "pt", SCHEDULER_ENTRY: json.dumps(diffusion.scheduler_config)}
    with atomic_write(file) as draft:
        save_file(weights, draft, metadata={**entries, **(metadata or {})})


def checkpoint_incompatibility(diffusion: Diffusion, architecture: Path | None = None) -> str:
    """Say why a model cannot be saved as a checkpoint, without a full stop; "" if it can."""
    if is_flow(diffusion.scheduler_config):
        return f"{diffusion.name} is a flow matching model, which a checkpoint cannot represent"
    width = diffusion.unet.config.cross_attention_dim
    folder = architecture or CONFIG_BY_PROMPT_WIDTH.get(width, SD1)
    for part, module in diffusion.modules.items():
        for name, expected in read_json(folder / part / "config.json").items():
            value = getattr(module.config, name)
            value = list(value) if isinstance(value, tuple) else value
            if name not in IGNORED_CONFIG_KEYS and value != expected:
                return (
                    f"{diffusion.name} is no Stable Diffusion 1.x, 2.x or XL (its {part} has "
                    f"{name} {value}), and a checkpoint cannot contain another model"
                )
    return ""


def save_folder(diffusion: Diffusion, folder: Path, *, overwrite: bool = False) -> None:
    """Write a diffusers folder, in the model's dtype, and with `overwrite` replace an older one.

    Raises UserError when it cannot be written.
    """
    pipeline = make_pipeline(diffusion)
    with atomic_folder(folder, overwrite=overwrite) as draft:
        pipeline.save_pretrained(draft, max_shard_size=ONE_FILE)
        # diffusers adds the defaults of the saved scheduler, which are not those of all others.
        config = _saved_entries(diffusion.scheduler_config)
        config = {"_class_name": type(pipeline.scheduler).__name__, **config}
        write_text(draft / "scheduler" / "scheduler_config.json", json.dumps(config, indent=2))


def make_pipeline(diffusion: Diffusion) -> DiffusionPipeline:
    """diffusers' pipeline around a model's modules, without safety checker or watermark."""
    parts = {
        "unet": diffusion.unet,
        "vae": diffusion.vae,
        "text_encoder": diffusion.text_encoder,
        "tokenizer": diffusion.tokenizer,
        "scheduler": _scheduler(diffusion.scheduler_config),
        "feature_extractor": None,
    }
    plain, inpainting = PIPELINES if diffusion.text_encoder_2 is None else XL_PIPELINES
    pipeline: type[DiffusionPipeline] = inpainting if diffusion.is_inpainting_model else plain
    if diffusion.text_encoder_2 is None:
        return pipeline(**parts, safety_checker=None, requires_safety_checker=False)
    second = {"text_encoder_2": diffusion.text_encoder_2, "tokenizer_2": diffusion.tokenizer_2}
    return pipeline(**parts, **second, add_watermarker=False)


def _scheduler(config: dict[str, Any]) -> SchedulerMixin:
    """diffusers' scheduler for a model's noise schedule."""
    kind = FlowMatchEulerDiscreteScheduler if is_flow(config) else DDIMScheduler
    return kind.from_config(_saved_entries(config))


def _saved_entries(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a scheduler_config.json; that of a flow has no prediction_type."""
    ignored = {"prediction_type"} if is_flow(config) else set()
    return {key: value for key, value in config.items() if key not in ignored}


def _prediction_keys(scheduler: dict[str, Any]) -> Iterator[str]:
    """Marker keys of checkpoints for the prediction type, which core reads in XL's."""
    if scheduler.get("prediction_type") == "v_prediction":
        yield V_PRED_KEY
        if scheduler.get("rescale_betas_zero_snr"):
            yield ZTSNR_KEY
