"""What a run of captions leaves behind, from its newest checkpoint or an earlier one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...diffusion.fingerprint import file_hash
from ...kosmos.kosmos_lora import merge_lora
from ...kosmos.kosmos_model import Kosmos
from ...kosmos.load import load_kosmos
from ...shared.errors import UserError
from ..config_yaml import read_as
from ..run import checkpoints
from ..run.run_folder import RunFolder
from . import caption_lora
from .caption_config import CaptionConfig


def fingerprint(kosmos: Kosmos) -> str:
    """SHA-256, in hex, of a model's weights, configurations and vocabulary and of its LoRAs."""
    source = Path(kosmos.source)
    files = [*sorted(source.glob("*.json")), *sorted(source.glob("*.safetensors"))]
    digest = hashlib.sha256()
    for file in (*files, *map(Path, kosmos.loras)):
        name = file.name if file.parent == source else file.suffix
        digest.update(f"{name}:{file_hash(file)}\n".encode())
    return digest.hexdigest()


def load_base(config: CaptionConfig, dtype: torch.dtype) -> Kosmos:
    """Load the model to start from, its own LoRAs merged in."""
    kosmos = load_kosmos(Path(config.base), dtype)
    for file in config.base_loras:
        kosmos = merge_lora(kosmos, Path(file))
    return kosmos


def write_result(
    run: RunFolder, config: CaptionConfig, weights: Mapping[str, torch.Tensor]
) -> None:
    """Write what was trained, given by its parameters' names, and mark the run as finished."""
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
    checkpoints.write_tensors(target, caption_lora.file_tensors(weights), metadata)


def result_at(run: RunFolder, step: int) -> Path:
    """Return the LoRA that the run would have had at a kept checkpoint, made on first use.

    Raises UserError when no checkpoint of that step is kept.
    """
    config = read_as(CaptionConfig, run.config)
    if run.is_finished() and step == config.steps:
        return run.lora
    target = run.path / "steps" / f"{step:08}" / run.lora.name
    kept = checkpoints.kept(run.checkpoints)
    if not target.exists() and step not in kept:
        raise UserError(
            f"The run {run.path.name} keeps no checkpoint of step {step}: choose one of "
            f"{', '.join(map(str, kept)) or 'none'}."
        )
    if not target.exists():
        _write(target, run, config, checkpoints.result_weights(kept[step]))
    return target


def load_result(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Kosmos:
    """Load the model that a run made, or would have made at a kept checkpoint, on the CPU."""
    config = read_as(CaptionConfig, run.config)
    made = run.lora if step is None else result_at(run, step)
    name = run.path.name if step is None else f"{run.path.name} at step {step}"
    return replace(merge_lora(load_base(config, dtype), made), name=name)
