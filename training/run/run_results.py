"""The result of a DreamBooth run, of its last step or of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...diffusion.diffusion_model import Diffusion
from ...diffusion.load.model_source import load_diffusion
from ...diffusion.load.prediction import with_prediction
from ...diffusion.merge_lora import merge_lora
from ...diffusion.save_model import checkpoint_incompatibility, save_checkpoint, save_folder
from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ...shared.safetensors_files import is_complete_model
from ..config import DIFFUSERS, TrainingConfig
from ..config_yaml import read_as
from ..data.subject import read_images
from ..dreambooth import lora_adapters, textual_inversion
from ..optim.weight_averaging import load_weights
from . import checkpoints
from .base_model import find_base
from .run_folder import RunFolder
from .saved_scores import read_scores


def load_base(config: TrainingConfig, dtype: torch.dtype) -> Diffusion:
    """Load the base model with its LoRAs merged. Raises UserError for a run on a MODEL."""
    if config.loader not in (DIFFUSERS, "ToComfyModel"):
        raise UserError(
            f"The run trained the MODEL {Path(config.base).name}, which only ComfyUI opens: use "
            "its LoRA with core's nodes."
        )
    vocabulary = Path(config.vocabulary) if config.vocabulary else None
    diffusion = load_diffusion(config.base, dtype, vocabulary, download=False)
    diffusion = with_prediction(diffusion, config.prediction)
    for file in config.base_loras:
        diffusion = _merge(diffusion, Path(file))
    return diffusion


def _merge(diffusion: Diffusion, file: Path) -> Diffusion:
    """Merge a LoRA or add an embedding's token, and append the file to the model's `loras`.

    Raises UserError when the file does not fit the model.
    """
    if not textual_inversion.is_embedding(file):
        return merge_lora(diffusion, file)
    try:
        extended = textual_inversion.add_token(diffusion, textual_inversion.read_embedding(file))
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{file} does not fit {diffusion.name} ({error}): choose the base model that it was "
            "made for."
        ) from error
    return replace(extended, loras=(*diffusion.loras, str(file)))


def write_result(run: RunFolder, config: TrainingConfig, diffusion: Diffusion) -> None:
    """Write the result, and mark the run as finished."""
    _write(run.result_path(config.method), run, config, diffusion)
    run.mark_finished(config.steps)


def _write(target: Path, run: RunFolder, config: TrainingConfig, diffusion: Diffusion) -> None:
    if config.method == "full":
        save_folder(diffusion, target, overwrite=True)
    elif config.method == "embedding":
        embedding = textual_inversion.trained_embedding(diffusion, config.token)
        textual_inversion.write_embedding(target, embedding, metadata(run, config))
    else:
        tensors = lora_adapters.lora_state_dict(diffusion.unet, *diffusion.text_encoders)
        checkpoints.write_tensors(target, tensors, metadata(run, config))


def result_at(run: RunFolder, step: int) -> Path:
    """Return the result of a checkpoint, written on first use and when it is missing or damaged.

    It is a LoRA, an embedding or a model folder, as the method says. Raises UserError when there is
    no checkpoint of that step.
    """
    config = read_as(TrainingConfig, run.config)
    target = run.result_path(config.method, uses_comfyui=config.uses_comfyui)
    if not run.was_finished() or step != config.steps:
        target = run.path / "steps" / f"{step:08}" / target.name
    if is_complete_model(target):
        return target
    weights = checkpoints.result_weights(checkpoints.at_step(run.checkpoints, step))
    if config.uses_comfyui:
        from ..denoiser.open_denoiser import write_core_result

        write_core_result(target, run, config, weights)
        return target
    diffusion = load_base(find_base(run, config), torch.float32)
    if config.method == "embedding":
        if len(weights) != 1:
            raise UserError(
                f"The checkpoint of step {step} of {run.path.name} has no embedding: choose "
                "another one."
            )
        embedding = textual_inversion.TokenEmbedding(config.token, *weights.values())
        textual_inversion.write_embedding(target, embedding, metadata(run, config))
        return target
    if config.method != "full":
        lora_adapters.inject_configured_lora(diffusion, config)
    load_weights(diffusion.modules, weights)
    _write(target, run, config, diffusion)
    return target


def metadata(run: RunFolder, config: TrainingConfig) -> dict[str, str]:
    """Return the metadata of a result file: base model, subject, captions, settings, scores."""
    _, captions = read_images(run.images)
    saved = read_scores(run)
    scores = {"scores": run.scores.read_text(encoding="utf-8")} if saved else {}
    return scores | {
        "base": config.base,
        "base_hash": config.base_hash,
        "token": config.token,
        "class": config.class_name,
        "captions": json.dumps(captions),
        "settings": json.dumps(asdict(config)),
    }


def write_with_scores(run: RunFolder, target: Path) -> None:
    """Write a copy of a run's LoRA or embedding that has the scores in its metadata.

    The run's own file stays unchanged, as its hash is part of model fingerprints. Raises UserError
    when the disk is full.
    """
    config = read_as(TrainingConfig, run.config)
    tensors = checkpoints.read_tensors(result_at(run, config.steps))
    checkpoints.write_tensors(target, tensors, metadata(run, config))


def write_model_metadata(run: RunFolder, folder: Path) -> None:
    """Write the metadata of a diffusers folder as its `dreambooth.json`.

    Raises UserError when the disk is full.
    """
    values = metadata(run, read_as(TrainingConfig, run.config))
    write_text(folder / "dreambooth.json", json.dumps(values, indent=2, ensure_ascii=False))


def load_result(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Diffusion:
    """Load the model that a run trained, at its last step or at a checkpoint, on the CPU."""
    config = find_base(run, read_as(TrainingConfig, run.config))
    if config.uses_comfyui:
        raise UserError(
            f"The run {run.path.name} trained a MODEL, which is no DIFFUSION: use its LoRA with "
            "core's nodes."
        )
    result = result_at(run, config.steps if step is None else step)
    name = run.path.name if step is None else f"{run.path.name} at step {step}"
    if config.method == "full":
        return replace(load_diffusion(result, dtype), name=name)
    return replace(_merge(load_base(config, dtype), result), name=name)


def write_checkpoint(run: RunFolder, target: Path, architecture: Path | None = None) -> bool:
    """Write the model of a run of the method "full" as a checkpoint file, in fp16.

    Returns False, and writes nothing, when the checkpoint format does not support the model. Raises
    UserError when the disk is full.
    """
    model = load_result(run, torch.float16)
    if checkpoint_incompatibility(model, architecture):
        return False
    config = read_as(TrainingConfig, run.config)
    save_checkpoint(model, target, architecture, metadata(run, config))
    return True
