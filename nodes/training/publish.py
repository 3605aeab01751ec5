"""Put what a run made where ComfyUI's own nodes list it."""

from __future__ import annotations

from pathlib import Path

import torch

from ...training.captions.caption_config import CaptionConfig
from ...training.config import TrainingConfig
from ...training.config_yaml import read_as, read_config
from ...training.data.subject import link_or_copy
from ...training.run.run_folder import RunFolder
from .. import host
from .run_monitor import RUNS

PUBLISHED = "dreambooth"
"""The folder below models/loras, embeddings, checkpoints and diffusers for what runs made."""

CAPTIONERS = "kosmos"
"""The folder below models/loras for what runs of captions made."""


def name_of(run: RunFolder) -> str:
    """Return a run's name, with the folders below output/dreambooth that it is in."""
    return run.path.relative_to(host.output_folder(RUNS)).as_posix()


def publish(run: RunFolder) -> Path:
    """Put a finished run's result where ComfyUI's own nodes list it, and return its place.

    A whole model becomes a checkpoint file, or a diffusers folder when no checkpoint can hold it;
    all else takes no further disk space where the file system can link files, until it is scored.
    """
    from ...training.run.run_results import write_origin, write_scored

    config = read_config(run.config)
    if isinstance(config, CaptionConfig):
        target = host.model_file("loras", CAPTIONERS, f"{name_of(run)}.safetensors")
        link_or_copy(run.lora, target)
        return target
    method = read_as(TrainingConfig, run.config).method
    if method == "full" and (whole := _published_checkpoint(run)):
        return whole
    made, target = run.made(method), _published(run, method)
    if made.is_file() and run.scores.exists():
        if not _is_newer(target, made, run.scores):
            write_scored(run, target)
        return target
    if made.is_file():
        link_or_copy(made, target)
        return target
    for file in sorted(made.rglob("*.*")):
        if file.is_file():
            link_or_copy(file, target / file.relative_to(made))
    write_origin(run, target)
    return target


def publish_scores(run: RunFolder) -> None:
    """Write the scores that EvaluateSubject has found into what was published, if it was."""
    method = read_as(TrainingConfig, run.config).method
    places = [_published(run, method), *([_whole(run)] if method == "full" else [])]
    if run.is_finished() and any(place.exists() for place in places):
        publish(run)


def _published(run: RunFolder, method: str) -> Path:
    """Where a run's result lies for ComfyUI's own nodes, unless it is a checkpoint."""
    kind = {"full": "diffusers", "embedding": "embeddings"}.get(method, "loras")
    return host.models_folder(kind)[0] / PUBLISHED / f"{name_of(run)}{run.made(method).suffix}"


def _is_newer(target: Path, *sources: Path) -> bool:
    """Tell whether a file was written after all of those that it is made from and that exist."""
    written = [source.stat().st_mtime_ns for source in sources if source.exists()]
    return target.exists() and target.stat().st_mtime_ns >= max(written)


def _whole(run: RunFolder) -> Path:
    """Where the checkpoint of a model that was trained whole lies."""
    return host.model_file("checkpoints", PUBLISHED, f"{name_of(run)}.safetensors")


@torch.inference_mode(False)
def _published_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint file of a run that trained a whole model, written unless it is there.

    None stands for a model that a checkpoint cannot hold.
    """
    from ...training.run.run_results import write_checkpoint

    target = _whole(run)
    if _is_newer(target, run.result, run.scores):
        return target
    return target if write_checkpoint(run, target) else None


def prompt_word(file: Path) -> str:
    """Return how a prompt names a file in ComfyUI's folder for embeddings."""
    name = file.relative_to(host.models_folder("embeddings")[0]).with_suffix("")
    return f"embedding:{name.as_posix()}"
