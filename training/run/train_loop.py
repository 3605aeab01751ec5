"""A run from its folder to its result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import cast

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Dataset

from ...shared.errors import UserError
from ..captions.caption_config import CaptionConfig
from ..config import Config, TrainingConfig
from ..config_yaml import read_config
from ..learner import Learner
from ..optim import zero_optimizer
from ..optim.weight_averaging import load_weights
from . import checkpoints
from .events import Event, append
from .loggers import MetricLogger, TensorBoard, WeightsAndBiases
from .preflight import Preflight, cheapest_change
from .run_folder import RunFolder
from .step_callback import StepCallback
from .stop_request import StopRequest

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
FROZEN = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Lightning computes in these: weights that do not learn need no more."""


def train(run: RunFolder, stop: StopRequest, *, leads: bool = True) -> bool:
    """Train until all steps are done and the result is written; False when asked to stop before.

    Goes on from the newest checkpoint. Of the processes that share a run one `leads`: it alone
    writes to the run folder. Raises UserError for settings that do not fit the model, and
    OSError when the disk is full.
    """
    config = read_config(run.config)
    start = run.steps_saved()

    def say(kind: str, text: str | None = None) -> None:
        if leads:
            append(run.events, [Event(kind, start, text=text)])

    say("resumed")
    say("phase", "loading the model")
    journal = StepCallback(run, stop, _curves(run, config, start) if leads else [])
    callbacks: list[Callback] = [journal]
    if leads and not start:
        callbacks.append(Preflight(lambda needs: say("phase", needs)))
    trainer = make_trainer(config, callbacks)
    module = _learner(
        run,
        config,
        trainer.strategy.root_device,
        lambda what: say("phase", what),
        leads=leads,
    )
    say("phase", "training")
    parts = range(start * config.accumulation, config.steps * config.accumulation)
    try:
        trainer.fit(module, DataLoader(cast("Dataset[int]", parts), batch_size=None))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The training does not fit into memory (it ran out): {cheapest_change(config)}."
        ) from error
    if max(start, journal.done) < config.steps:
        return False
    if leads:
        load_weights(module, module.result_weights(trainer.optimizers[0]))
        module.write_result(run)
    return True


def _learner(
    run: RunFolder,
    config: Config,
    device: torch.device,
    say: Callable[[str], None],
    *,
    leads: bool,
) -> Learner:
    """Return what the run's task trains, with all that it learns from."""
    resume_from = checkpoints.latest(run.checkpoints)
    if isinstance(config, TrainingConfig):
        from ..dreambooth.dreambooth_module import prepare as prepare_dreambooth

        dtype = FROZEN.get(_precision(config), torch.float32)
        return prepare_dreambooth(
            run, config, device, say, resume_from, frozen_dtype=dtype, leads=leads
        )
    if isinstance(config, CaptionConfig):
        from ..captions.caption_module import prepare as prepare_captions

        return prepare_captions(run, config, device, say, resume_from)
    raise TypeError(f"No task has settings like {type(config).__name__}.")


def _curves(run: RunFolder, config: Config, start: int) -> list[MetricLogger]:
    curves: list[MetricLogger] = [TensorBoard(run.curves, start)]
    if config.wandb:
        curves.append(WeightsAndBiases(run.path, config))
    return curves


def make_trainer(config: Config, callbacks: list[Callback]) -> Trainer:
    """Return a Trainer that does nothing but train: all else is the callbacks'."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*in eval mode at the start of training.*"):
        warnings.filterwarnings("ignore", message=text)
    processes = config.processes
    if config.batch_size % processes:
        raise UserError(
            f"A batch of {config.batch_size} pictures cannot be shared by {processes} processes: "
            f"set batch_size to a multiple of {processes}."
        )
    zero_optimizer.check(config)
    there = torch.cuda.device_count()
    if config.device != "cpu" and there and config.devices > there:
        raise UserError(
            f"devices is {config.devices} and this computer has {there}: set it to {there}."
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


def _precision(config: Config) -> str:
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if config.precision == "auto":
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if config.precision == "fp16" and not on_gpu:
        raise UserError("Training in fp16 needs a GPU: set precision to bf16 or fp32.")
    return PRECISIONS[config.precision]
