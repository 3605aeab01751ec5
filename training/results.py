"""What a run leaves behind, from its newest checkpoint or an earlier one."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from ..diffusion.load import load_diffusion
from ..diffusion.model import Diffusion
from ..errors import MendableError
from . import checkpoint, lora, tokens
from .config import TrainingConfig
from .config_yaml import read_config
from .folder import RunFolder


def load_base(config: TrainingConfig, dtype: torch.dtype) -> Diffusion:
    """Load the model to start from, its own LoRAs fused in."""
    vocabulary = Path(config.vocabulary) if config.vocabulary else None
    diffusion = load_diffusion(config.base, dtype, vocabulary)
    for file in config.base_loras:
        diffusion = _fuse_file(diffusion, Path(file))
    return diffusion


def _fuse_file(diffusion: Diffusion, file: Path) -> Diffusion:
    """Fuse a LoRA file into a model that was just loaded, and say so in its `loras`.

    Raises MendableError when the LoRA was made for another model.
    """
    try:
        lora.fuse(diffusion.unet, diffusion.text_encoder, load_file(file))
    except (ValueError, RuntimeError, KeyError) as error:
        raise MendableError(
            f"{file} does not fit {diffusion.name} ({error}): choose the LoRA's own base model."
        ) from error
    return replace(diffusion, loras=(*diffusion.loras, str(file)))


def write_result(run: RunFolder, config: TrainingConfig, diffusion: Diffusion) -> None:
    """Write what was trained, and mark the run as finished."""
    if config.method == "full":
        _write_model(run.model, diffusion)
    elif config.method == "embedding":
        learned = tokens.trained(diffusion, config.token)
        tokens.write_embedding(run.embedding, learned, metadata(config))
    else:
        tensors = lora.extract(diffusion.unet, diffusion.text_encoder)
        checkpoint.write_tensors(run.lora, tensors, metadata(config))
    run.mark_finished(config.steps)


def metadata(config: TrainingConfig) -> dict[str, str]:
    """Return what a file says about where it came from."""
    return {
        "base": config.base,
        "base_hash": config.base_hash,
        "token": config.token,
        "class": config.class_name,
        "settings": json.dumps(asdict(config)),
    }


def _write_model(folder: Path, diffusion: Diffusion) -> None:
    pipeline = StableDiffusionPipeline(
        unet=diffusion.unet,
        vae=diffusion.vae,
        text_encoder=diffusion.text_encoder,
        tokenizer=diffusion.tokenizer,
        scheduler=DDIMScheduler.from_config(diffusion.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        pipeline.save_pretrained(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_result(run: RunFolder, dtype: torch.dtype) -> Diffusion:
    """Load the model that a finished run made, on the CPU."""
    config = read_config(run.config)
    if config.method == "full":
        return replace(load_diffusion(run.model, dtype), name=run.path.name)
    base = load_base(config, dtype)
    if config.method == "embedding":
        learned = tokens.read_embedding(run.embedding, config.token)
        return replace(tokens.teach(base, learned), name=run.path.name)
    return replace(_fuse_file(base, run.lora), name=run.path.name)
