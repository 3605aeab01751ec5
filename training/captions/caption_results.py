"""The results of a caption run, from its newest checkpoint or an earlier one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...kosmos.kosmos_lora import merge_lora
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...shared.safetensors_files import is_complete
from ..config_yaml import read_as
from ..run import checkpoints
from ..run.base_model import find_base
from ..run.run_folder import RunFolder
from . import caption_lora
from .caption_config import CaptionConfig


def load_base(config: CaptionConfig, dtype: torch.dtype) -> Kosmos:
    """Load the model to start from, its LoRAs merged in."""
    kosmos = load_kosmos(Path(config.base), dtype)
    for file in config.base_loras:
        kosmos = merge_lora(kosmos, Path(file))
    return kosmos


def write_result(
    run: RunFolder, config: CaptionConfig, weights: Mapping[str, torch.Tensor]
) -> None:
    """Write the trained weights, by parameter name, as the run's LoRA; mark it as finished."""
    _write(run.lora, run, config, weights)
    run.mark_finished(config.steps)


def _write(
    target: Path, run: RunFolder, config: CaptionConfig, weights: Mapping[str, torch.Tensor]
) -> None:
    metadata = {
        "made for": "kosmos-2",
        "language": config.language,
        "prompt": config.prompt,
        "base": config.base,
        "base_hash": config.base_hash,
        "settings": json.dumps(asdict(config)),
        "peft": run.adapter.read_text(encoding="utf-8"),
    }
    checkpoints.write_tensors(target, caption_lora.kosmos_lora_state_dict(weights), metadata)


def result_at(run: RunFolder, step: int) -> Path:
    """Return the LoRA of a kept checkpoint, written on first use and when missing or damaged.

    Raises UserError when no checkpoint of that step is kept.
    """
    config = read_as(CaptionConfig, run.config)
    target = run.lora
    if not run.was_finished() or step != config.steps:
        target = run.path / "steps" / f"{step:08}" / run.lora.name
    if not is_complete(target):
        checkpoint = checkpoints.at_step(run.checkpoints, step)
        _write(target, run, config, checkpoints.result_weights(checkpoint))
    return target


def load_result(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Kosmos:
    """Load a run's result, of its end or of a kept checkpoint, on the CPU."""
    config = find_base(run, read_as(CaptionConfig, run.config))
    lora = result_at(run, config.steps if step is None else step)
    name = run.path.name if step is None else f"{run.path.name} at step {step}"
    return replace(merge_lora(load_base(config, dtype), lora), name=name)
