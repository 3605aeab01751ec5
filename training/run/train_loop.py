"""Train a run from its folder to its result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Dataset

from ...shared.atomic_files import write_text
from ...shared.batching import is_out_of_memory, memory_remedy
from ...shared.errors import UserError
from ..captions.caption_config import CaptionConfig
from ..config import Config, TrainingConfig
from ..config_yaml import read_config, to_yaml
from ..learner import Learner
from ..optim import zero_optimizer
from ..optim.weight_averaging import load_weights
from . import checkpoints
from .base_model import find_base
from .events import Event, append_events
from .loggers import make_loggers
from .preflight import Preflight, suggest_change
from .run_folder import RunFolder
from .step_callback import StepCallback
from .stop_request import StopRequest

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
FROZEN_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Frozen weights are stored in the dtype in which mixed precision computes with them."""


def train(
    run: RunFolder, stop: StopRequest, *, is_leader: bool = True, base: Path | None = None
) -> bool:
    """Train until the result is written; return False when stopped on request before.

    Resumes at the newest checkpoint. With several processes only the leader writes to the run
    folder. The base model is `base`, or found by `find_base`; config.yaml says afterwards where it
    is. Raises UserError for settings that do not fit the model, and OSError when the disk is full.
    """
    saved = read_config(run.config)
    config = find_base(run, saved, base=base)
    if is_leader and config != saved:
        write_text(run.config, to_yaml(config))
    start = run.steps_saved()

    def report(text: str | None, kind: str = "phase") -> None:
        if is_leader:
            append_events(run.events, [Event(kind, start, text=text)])

    report(None, "resumed")
    report("loading the model")
    steps = StepCallback(run, stop, make_loggers(run, config, start) if is_leader else [])
    callbacks: list[Callback] = [steps]
    if is_leader and not start:
        callbacks.append(Preflight(report))
    trainer = make_trainer(config, callbacks)
    device, resume_from = trainer.strategy.root_device, checkpoints.latest(run.checkpoints)
    dtype = FROZEN_DTYPES.get(_precision(config), torch.float32)
    module: Learner
    with _out_of_memory_named(config, device, while_loading=True):
        if isinstance(config, TrainingConfig):
            from ..dreambooth.dreambooth_module import prepare as prepare_dreambooth

            module = prepare_dreambooth(
                run, config, device, report, resume_from, frozen_dtype=dtype, leads=is_leader
            )
        elif isinstance(config, CaptionConfig):
            from ..captions.caption_module import prepare as prepare_captions

            module = prepare_captions(run, config, device, report, resume_from, frozen_dtype=dtype)
        else:
            raise TypeError(f"{type(config).__name__} is no config of a task.")
        module.to(device)
    with _out_of_memory_named(config, device):
        report("training")
        batches = range(start * config.accumulation, config.steps * config.accumulation)
        trainer.fit(module, DataLoader(cast("Dataset[int]", batches), batch_size=None))
    if max(start, steps.completed_steps) < config.steps:
        return False
    if is_leader:
        with memory_remedy("close other programs, and queue again", "writing the result"):
            load_weights(module, module.result_weights(trainer.optimizers[0]))
            module.write_result(run)
    return True


@contextmanager
def _out_of_memory_named(
    config: Config, device: torch.device, *, while_loading: bool = False
) -> Iterator[None]:
    """Raise a lack of memory in a `with` block as a UserError that says what to change."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if isinstance(error, MemoryError | OSError) or "DefaultCPUAllocator" in str(error):
            device = torch.device("cpu")
        advice = suggest_change(config, device, while_loading=while_loading)
        raise UserError(f"Out of memory: {advice}.") from error


def make_trainer(config: Config, callbacks: list[Callback]) -> Trainer:
    """Return a Trainer whose logging, checkpoints and progress are left to the callbacks."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*in eval mode at the start of training.*"):
        warnings.filterwarnings("ignore", message=text)
    processes = config.processes
    if config.batch_size % processes:
        raise UserError(
            f"batch_size is {config.batch_size}, and {processes} processes share it: set it to a "
            f"multiple of {processes}."
        )
    zero_optimizer.check_optimizer(config)
    gpus = torch.cuda.device_count()
    if config.device != "cpu" and gpus and config.devices > gpus:
        raise UserError(
            f"devices is {config.devices}, and this computer has {gpus} GPUs: set it to {gpus}."
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
        if not on_gpu:
            return "32-true"
        # GPUs before Ampere only emulate bf16, which is slower than fp32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    if config.precision == "fp16" and not on_gpu:
        raise UserError("Training in fp16 needs a GPU: set precision to bf16 or fp32.")
    return PRECISIONS[config.precision]
