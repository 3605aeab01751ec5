"""A run from its folder to its result."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from lightning import Trainer
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from ..diffusion.load import load_diffusion
from ..diffusion.model import Diffusion
from ..errors import MendableError
from . import checkpoint, lora
from .config import TrainingConfig, read_config
from .dataset import read_pictures
from .events import Event, append
from .folder import RunFolder
from .journal import Journal
from .latents import encode_once
from .module import DreamBooth, Pictures
from .stop import StopRequest


def train(run: RunFolder, stop: StopRequest) -> bool:
    """Train until all steps are done and the result is written; False when asked to stop before.

    Goes on from the newest checkpoint. Raises MendableError for settings that do not fit the
    model, and OSError when the disk is full.
    """
    config = read_config(run.config)
    start = run.steps_saved()
    append(run.events, [Event("resumed", start), Event("phase", start, text="loading the model")])
    diffusion = load_base(config, torch.float32)
    trainer = make_trainer(config, Journal(run, diffusion, stop))
    append(run.events, [Event("phase", start, text="encoding the pictures")])
    subject, class_pictures = read_training_pictures(
        run, config, diffusion, trainer.strategy.root_device
    )
    module = DreamBooth(
        config, diffusion, subject, class_pictures, checkpoint.latest(run.checkpoints)
    )
    append(run.events, [Event("phase", start, text="training")])
    steps = cast("Dataset[int]", range(start, config.steps))
    trainer.fit(module, DataLoader(steps, batch_size=None))
    if run.steps_saved() < config.steps:
        return False
    write_result(run, config, diffusion)
    return True


def make_trainer(config: TrainingConfig, journal: Journal) -> Trainer:
    """Return a Trainer that does nothing but train: all else is the journal's."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*in eval mode at the start of training.*"):
        warnings.filterwarnings("ignore", message=text)
    bf16 = config.device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return Trainer(
        accelerator=config.device,
        devices=1,
        precision="bf16-mixed" if bf16 else "32-true",
        max_epochs=1,
        callbacks=[journal],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def load_base(config: TrainingConfig, dtype: torch.dtype) -> Diffusion:
    """Load the model to start from, its own LoRAs fused in."""
    vocabulary = Path(config.vocabulary) if config.vocabulary else None
    diffusion = load_diffusion(config.base, dtype, vocabulary)
    for file in config.base_loras:
        diffusion = fuse(diffusion, Path(file))
    return diffusion


def fuse(diffusion: Diffusion, file: Path) -> Diffusion:
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


def read_training_pictures(
    run: RunFolder, config: TrainingConfig, diffusion: Diffusion, device: torch.device
) -> tuple[Pictures, Pictures | None]:
    """Return the subject's and the class's pictures as latents with captions."""
    pictures, captions = read_pictures(run.pictures)
    class_pictures, _ = read_pictures(run.class_pictures)
    diffusion.vae.to(device)
    groups = encode_once(
        run.latents,
        diffusion.vae,
        {"subject": pictures, "class": class_pictures},
        config.resolution,
    )
    diffusion.vae.to("cpu")
    subject = Pictures(groups["subject"], tuple(captions))
    if "class" not in groups:
        return subject, None
    return subject, Pictures(groups["class"], (config.class_caption,) * len(class_pictures))


def write_result(run: RunFolder, config: TrainingConfig, diffusion: Diffusion) -> None:
    """Write the LoRA, or the whole model, and mark the run as finished."""
    if config.method == "lora":
        metadata = {
            "base": config.base,
            "token": config.token,
            "class": config.class_name,
            "settings": json.dumps(asdict(config)),
        }
        tensors = lora.extract(diffusion.unet, diffusion.text_encoder)
        checkpoint.write_tensors(run.lora, tensors, metadata)
    else:
        _write_model(run.model, diffusion)
    run.mark_finished(config.steps)


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
    return replace(fuse(load_base(config, dtype), run.lora), name=run.path.name)
