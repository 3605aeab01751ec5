"""A run from its folder to its result."""

from __future__ import annotations

import logging
import warnings
from typing import cast

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Dataset

from ..diffusion.model import Diffusion
from ..errors import MendableError
from . import checkpoint
from .averaging import put_in
from .config import TrainingConfig
from .config_yaml import read_config
from .curves import Curves, TensorBoard, WeightsAndBiases
from .dataset import read_masks, read_pictures
from .events import Event, append
from .folder import RunFolder
from .journal import Journal
from .latents import encode_once, mask_cells
from .module import DreamBooth, Pictures
from .preflight import Preflight, too_little_memory
from .results import load_base, write_result
from .stop import StopRequest

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def train(run: RunFolder, stop: StopRequest, *, leads: bool = True) -> bool:
    """Train until all steps are done and the result is written; False when asked to stop before.

    Goes on from the newest checkpoint. Of the processes that share a run one `leads`: it alone
    writes to the run folder. Raises MendableError for settings that do not fit the model, and
    OSError when the disk is full.
    """
    config = read_config(run.config)
    start = run.steps_saved()

    def say(kind: str, text: str | None = None) -> None:
        if leads:
            append(run.events, [Event(kind, start, text=text)])

    say("resumed")
    say("phase", "loading the model")
    diffusion = load_base(config, torch.float32)
    journal = Journal(run, stop, _curves(run, config, start) if leads else [])
    callbacks: list[Callback] = [journal]
    if leads and start < config.steps:
        callbacks.append(Preflight(lambda needs: say("phase", needs)))
    trainer = make_trainer(config, callbacks)
    say("phase", "encoding the pictures")
    subject, class_pictures = read_training_pictures(
        run, config, diffusion, trainer.strategy.root_device
    )
    resume_from = checkpoint.latest(run.checkpoints)
    module = DreamBooth(config, diffusion, subject, class_pictures, resume_from)
    say("phase", "training")
    parts = range(start * config.accumulation, config.steps * config.accumulation)
    try:
        trainer.fit(module, DataLoader(cast("Dataset[int]", parts), batch_size=None))
    except torch.OutOfMemoryError as error:
        raise too_little_memory(config, "it ran out") from error
    if max(start, journal.done) < config.steps:
        return False
    if leads:
        put_in(module, module.result_weights(trainer.optimizers[0]))
        write_result(run, config, module.diffusion)
    return True


def _curves(run: RunFolder, config: TrainingConfig, start: int) -> list[Curves]:
    curves: list[Curves] = [TensorBoard(run.curves, start)]
    if config.wandb:
        curves.append(WeightsAndBiases(run.path, config))
    return curves


def make_trainer(config: TrainingConfig, callbacks: list[Callback]) -> Trainer:
    """Return a Trainer that does nothing but train: all else is the callbacks'."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*in eval mode at the start of training.*"):
        warnings.filterwarnings("ignore", message=text)
    processes = config.devices * config.nodes
    if config.batch_size % processes:
        raise MendableError(
            f"A batch of {config.batch_size} pictures cannot be shared by {processes} processes: "
            f"set batch_size to a multiple of {processes}."
        )
    return Trainer(
        accelerator=config.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        accumulate_grad_batches=config.accumulation,
        precision=_precision(config),
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _precision(config: TrainingConfig) -> str:
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if config.precision == "auto":
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if config.precision == "fp16" and not on_gpu:
        raise MendableError("Training in fp16 needs a GPU: set precision to bf16 or fp32.")
    return PRECISIONS[config.precision]


def read_training_pictures(
    run: RunFolder, config: TrainingConfig, diffusion: Diffusion, device: torch.device
) -> tuple[Pictures, Pictures | None]:
    """Return the subject's and the class's pictures as latents with captions.

    Raises MendableError when the settings need masks that the subject does not have.
    """
    pictures, captions = read_pictures(run.pictures)
    class_pictures, _ = read_pictures(run.class_pictures)
    flipped = [picture[:, ::-1] for picture in pictures] if config.flip else []
    diffusion.vae.to(device)
    groups = encode_once(
        run.latents,
        diffusion.vae,
        {"subject": pictures, "class": class_pictures, "flipped": flipped},
        config.resolution,
    )
    diffusion.vae.to("cpu")
    masks = None
    if config.background_weight < 1:
        cells = groups["subject"].mean.shape[-2:]
        masks = mask_cells(read_masks(run.masks), config.resolution, cells)
    subject = Pictures(groups["subject"], tuple(captions), groups.get("flipped"), masks)
    if "class" not in groups:
        return subject, None
    return subject, Pictures(groups["class"], (config.class_caption,) * len(class_pictures))
