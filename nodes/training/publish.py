"""Copy or link the result of a run to where ComfyUI's own nodes list it."""

from __future__ import annotations

from pathlib import Path

import torch

from ...shared.atomic_files import atomic_folder, link_or_copy
from ...training.captions.caption_config import CaptionConfig
from ...training.config import TrainingConfig
from ...training.config_yaml import read_as, read_config
from ...training.run.run_folder import RunFolder
from .. import host
from .run_monitor import RUNS_FOLDER

PUBLISHED = "dreambooth"
"""The folder for results below models/loras, embeddings, checkpoints, diffusers and so on."""

CAPTIONERS = "kosmos"
"""The folder for results of runs of captions below models/loras."""


def name_of(run: RunFolder) -> str:
    """Return a run's path below output/dreambooth."""
    return run.path.relative_to(host.output_path(RUNS_FOLDER)).as_posix()


def publish(run: RunFolder) -> Path:
    """Publish a finished run's result in ComfyUI's model folders, and return its path.

    A fully trained model becomes a checkpoint file, or a diffusers folder if a checkpoint cannot
    hold it. Other results are hard links where the file system has them, or copies; after
    EvaluateSubject they are copies with the scores in their metadata.
    """
    from ...training.captions import caption_results
    from ...training.run.run_results import result_at, write_model_metadata, write_with_scores

    config = read_config(run.config)
    if isinstance(config, CaptionConfig):
        target = host.model_save_path("loras", CAPTIONERS, f"{name_of(run)}.safetensors")
        link_or_copy(caption_results.result_at(run, config.steps), target)
        return target
    trained = read_as(TrainingConfig, run.config)
    if trained.method == "full" and not trained.uses_comfyui:
        checkpoint = _publish_checkpoint(run)
        if checkpoint is not None:
            return checkpoint
    result, target = result_at(run, config.steps), _target(run, trained)
    if result.is_file() and run.scores.exists():
        if not _is_newer(target, result, run.scores):
            write_with_scores(run, target)
        return target
    if result.is_file():
        link_or_copy(result, target)
        return target
    with atomic_folder(target, overwrite=True) as draft:
        for file in sorted(result.rglob("*.*")):
            if file.is_file():
                link_or_copy(file, draft / file.relative_to(result))
        write_model_metadata(run, draft)
    return target


def publish_scores(run: RunFolder) -> None:
    """Publish a run's result again, with its scores, if it is published."""
    config = read_as(TrainingConfig, run.config)
    targets = [_target(run, config)]
    if config.method == "full":
        targets.append(_checkpoint_target(run))
    if run.is_finished() and any(target.exists() for target in targets):
        publish(run)


def _target(run: RunFolder, config: TrainingConfig) -> Path:
    """Return where a result is published that is no checkpoint file."""
    model = "diffusion_models" if config.uses_comfyui else "diffusers"
    kind = {"full": model, "embedding": "embeddings"}.get(config.method, "loras")
    result = run.result_path(config.method, uses_comfyui=config.uses_comfyui)
    return host.model_folders(kind)[0] / PUBLISHED / f"{name_of(run)}{result.suffix}"


def _is_newer(target: Path, *sources: Path) -> bool:
    """Return whether a file is at least as new as its sources that exist."""
    times = [source.stat().st_mtime_ns for source in sources if source.exists()]
    return target.exists() and target.stat().st_mtime_ns >= max(times)


def _checkpoint_target(run: RunFolder) -> Path:
    """Return where the checkpoint file of a fully trained model is published."""
    return host.model_save_path("checkpoints", PUBLISHED, f"{name_of(run)}.safetensors")


@torch.inference_mode(False)
def _publish_checkpoint(run: RunFolder) -> Path | None:
    """Write a checkpoint file unless it is up to date; None for a model that does not fit one."""
    from ...training.run.run_results import write_checkpoint

    target = _checkpoint_target(run)
    if _is_newer(target, run.result, run.scores):
        return target
    return target if write_checkpoint(run, target) else None


def prompt_word(file: Path) -> str:
    """Return what a prompt contains to use a file of models/embeddings: "embedding:name"."""
    name = file.relative_to(host.model_folders("embeddings")[0]).with_suffix("")
    return f"embedding:{name.as_posix()}"
