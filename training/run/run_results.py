"""What a run leaves behind, from its newest checkpoint or an earlier one."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.merge_lora import merge_lora
from ...diffusion.save_model import checkpoint_incompatibility, save_checkpoint, save_folder
from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ..config import TrainingConfig
from ..config_yaml import read_as
from ..data.subject import read_images
from ..dreambooth import lora_adapters, textual_inversion
from ..optim.weight_averaging import load_weights
from . import checkpoints
from .run_folder import RunFolder


def load_base(config: TrainingConfig, dtype: torch.dtype) -> Diffusion:
    """Load the model to start from, its own LoRAs merged in."""
    vocabulary = Path(config.vocabulary) if config.vocabulary else None
    diffusion = load_diffusion(config.base, dtype, vocabulary)
    for file in config.base_loras:
        diffusion = _merge(diffusion, Path(file))
    return diffusion


def _merge(diffusion: Diffusion, file: Path) -> Diffusion:
    """Merge a LoRA or an embedding into a model that was just loaded, and list it in its `loras`.

    Raises UserError when the file was made for another model.
    """
    if not textual_inversion.is_embedding(file):
        return merge_lora(diffusion, file)
    try:
        with_token = textual_inversion.add_token(diffusion, textual_inversion.read_embedding(file))
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{file} does not fit {diffusion.name} ({error}): choose the base model that it was "
            "made for."
        ) from error
    return replace(with_token, loras=(*diffusion.loras, str(file)))


def write_result(run: RunFolder, config: TrainingConfig, diffusion: Diffusion) -> None:
    """Write what was trained, and mark the run as finished."""
    _write(run.made(config.method), run, config, diffusion)
    run.mark_finished(config.steps)


def _write(target: Path, run: RunFolder, config: TrainingConfig, diffusion: Diffusion) -> None:
    if config.method == "full":
        shutil.rmtree(target, ignore_errors=True)
        save_folder(diffusion, target)
    elif config.method == "embedding":
        learned = textual_inversion.trained_embedding(diffusion, config.token)
        textual_inversion.write_embedding(target, learned, metadata(run, config))
    else:
        tensors = lora_adapters.lora_state_dict(diffusion.unet, *diffusion.text_encoders)
        checkpoints.write_tensors(target, tensors, metadata(run, config))


def result_at(run: RunFolder, step: int) -> Path:
    """Return the result that the run would have had at a kept checkpoint, made on first use.

    It is a LoRA, an embedding or a model folder, as the run's own. Raises UserError when no
    checkpoint of that step is kept.
    """
    config = read_as(TrainingConfig, run.config)
    if run.is_finished() and step == config.steps:
        return run.made(config.method)
    target = run.path / "steps" / f"{step:08}" / run.made(config.method).name
    if target.exists():
        return target
    weights = checkpoints.result_weights(checkpoints.at_step(run.checkpoints, step))
    diffusion = load_base(config, torch.float32)
    if config.method == "embedding":
        [vectors] = weights.values()
        learned = textual_inversion.TokenEmbedding(config.token, vectors)
        textual_inversion.write_embedding(target, learned, metadata(run, config))
        return target
    if config.method != "full":
        lora_adapters.inject_configured_lora(diffusion, config)
    load_weights(diffusion.modules, weights)
    _write(target, run, config, diffusion)
    return target


def metadata(run: RunFolder, config: TrainingConfig) -> dict[str, str]:
    """Return what a file says about where it came from."""
    _, captions = read_images(run.pictures)
    scores = {"scores": run.scores.read_text(encoding="utf-8")} if run.scores.exists() else {}
    return scores | {
        "base": config.base,
        "base_hash": config.base_hash,
        "token": config.token,
        "class": config.class_name,
        "captions": json.dumps(captions),
        "settings": json.dumps(asdict(config)),
    }


def write_scored(run: RunFolder, target: Path) -> None:
    """Write a copy of a run's LoRA or vectors that says how its checkpoints scored.

    The run's own file stays as it is: models and class pictures are known by its bytes. Raises
    OSError when the disk is full.
    """
    config = read_as(TrainingConfig, run.config)
    tensors = load_file(run.made(config.method))
    checkpoints.write_tensors(target, tensors, metadata(run, config))


def write_origin(run: RunFolder, folder: Path) -> None:
    """Write `dreambooth.json` beside a model's folders, for they have no place for metadata.

    Raises OSError when the disk is full.
    """
    says = metadata(run, read_as(TrainingConfig, run.config))
    write_text(folder / "dreambooth.json", json.dumps(says, indent=2, ensure_ascii=False))


def load_result(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Diffusion:
    """Load the model that a run made, or would have made at a kept checkpoint, on the CPU."""
    config = read_as(TrainingConfig, run.config)
    made = run.made(config.method) if step is None else result_at(run, step)
    name = run.path.name if step is None else f"{run.path.name} at step {step}"
    if config.method == "full":
        return replace(load_diffusion(made, dtype), name=name)
    return replace(_merge(load_base(config, dtype), made), name=name)


def write_checkpoint(run: RunFolder, target: Path, architecture: Path | None = None) -> bool:
    """Write the model of a run of the method "full" as a checkpoint file, in half precision.

    Returns False, and writes nothing, when a checkpoint cannot hold such a model. Raises
    UserError when the disk is full. The run folder keeps the model as precise as it is.
    """
    model = load_result(run, torch.float16)
    if checkpoint_incompatibility(model, architecture):
        return False
    says = metadata(run, read_as(TrainingConfig, run.config))
    save_checkpoint(model, target, architecture, says)
    return True
