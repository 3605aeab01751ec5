"""Write a model as one checkpoint file, or as a diffusers folder: whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..errors import MendableError
from .checkpoint import SD1
from .layout import checkpoint_weights
from .model import Diffusion
from .parts import read_json

# What a configuration says and a checkpoint does not depend on.
FREE = {"_class_name", "model_type", "sample_size", "bos_token_id", "eos_token_id", "pad_token_id"}


def save_checkpoint(diffusion: Diffusion, file: Path, architecture: Path = SD1) -> None:
    """Write a .safetensors file in the original layout, in the precision of the model.

    architecture: folder of diffusers configurations that the model has to fit, for a checkpoint
        says nothing of its own.

    Raises MendableError for a model of another architecture, and when the disk is full.
    """
    for part in ("unet", "vae", "text_encoder"):
        config = getattr(diffusion, part).config
        for name, wanted in read_json(architecture / part / "config.json").items():
            if name not in FREE and _plain(getattr(config, name)) != wanted:
                raise MendableError(
                    f"{diffusion.name} is no Stable Diffusion 1.x (its {part} has {name} "
                    f"{_plain(getattr(config, name))}), and a checkpoint can hold nothing else: "
                    "choose the format diffusers."
                )
    weights = {
        key: weight.detach().cpu().contiguous()
        for key, weight in checkpoint_weights(diffusion).items()
    }
    with _whole(file) as draft:
        save_file(weights, draft, metadata={"format": "pt"})


def save_folder(diffusion: Diffusion, folder: Path) -> None:
    """Write a folder that diffusers' StableDiffusionPipeline reads, in the model's precision.

    Raises MendableError when the disk is full.
    """
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
    with _whole(folder) as draft:
        pipeline.save_pretrained(draft)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a place to write to, which becomes `path` when all is written."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except (OSError, SafetensorError) as reason:
        raise MendableError(
            f"{path} could not be written ({reason}): make room on that disk and queue again."
        ) from reason
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Configurations hold tuples or lists, as they were made or read."""
    return list(value) if isinstance(value, tuple) else value
