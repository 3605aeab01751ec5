"""The YAML form of a run's settings: `config.yaml` in its folder."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

import yaml

from ..shared.errors import UserError
from .captions.caption_config import CaptionConfig
from .config import Config, TrainingConfig

AnyConfig = TypeVar("AnyConfig", bound=Config)

VERSION = 3
"""Goes up when a run without a setting would go on otherwise than it began: see EARLIER."""

LEGACY_DEFAULTS: dict[str, object] = {
    "class_target": "pictures",
    "class_caption_dropout": 0.0,
    "class_scenes": 0.0,
    "other_words": 0.0,
    "plain_captions": 0.0,
    "background_weight": 1.0,
}
"""How runs were trained before each of these could be chosen; files of earlier versions may lack
them."""

TASKS: dict[str, type[Config]] = {kind.task: kind for kind in (TrainingConfig, CaptionConfig)}
"""What a run may do; a file that names no task is older than the second one."""

# Every setting stands under one of these headings, where its task has it.
GROUPS: dict[str, tuple[str, ...]] = {
    "The model to start from": ("base", "base_hash", "base_loras", "vocabulary", "resolution"),
    "What is learned": ("token", "class_name", "class_prompt", "language", "prompt", "data"),
    "Class pictures that the worker paints": (
        "class_count",
        "class_steps",
        "class_guidance",
        "class_seed",
        "class_cache",
    ),
    "What is trained": (
        "method",
        "train_text_encoder",
        "train_connector",
        "layers",
        "rank",
        "token_vectors",
        "quantization_aware",
    ),
    "How long and how fast": (
        "steps",
        "learning_rate",
        "text_learning_rate",
        "warmup",
        "schedule",
    ),
    "The optimizer": ("optimizer", "weight_decay", "clip_norm", "ema"),
    "Batches, memory and machines": (
        "batch_size",
        "accumulation",
        "gradient_checkpointing",
        "precision",
        "device",
        "devices",
        "nodes",
        "strategy",
    ),
    "The loss and the data": (
        "prior_weight",
        "class_target",
        "background_weight",
        "min_snr_gamma",
        "noise_offset",
        "caption_dropout",
        "class_caption_dropout",
        "class_scenes",
        "other_words",
        "plain_captions",
        "flip",
        "bucket_step",
        "keep_english",
        "seed",
    ),
    "Watching and keeping": (
        "preview_prompt",
        "sample_prompts",
        "preview_every",
        "checkpoint_every",
        "keep_checkpoints",
        "wandb",
    ),
}


def to_yaml(config: Config) -> str:
    """Write all settings as YAML, under headings."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
    }
    parts = [f"version: {VERSION}\ntask: {config.task}\n"]
    for heading, names in GROUPS.items():
        here = {name: values[name] for name in names if name in values}
        if here:
            text = yaml.safe_dump(here, sort_keys=False, allow_unicode=True)
            parts.append(f"# {heading}\n{text}")
    return "\n".join(parts)


def read_as(kind: type[AnyConfig], path: Path) -> AnyConfig:
    """Read the `config.yaml` of a run that is of one kind; UserError when it is of another."""
    config = read_config(path)
    if not isinstance(config, kind):
        raise UserError(
            f"The run {path.parent.name} is one of {config.task}, and this is for {kind.task}: "
            "choose another run."
        )
    return config


def read_config(path: Path) -> Config:
    """Read `config.yaml`; a setting that an older version did not have is what it was then.

    Raises UserError when it is not YAML, is of a version to come, or has an unknown, missing
    or mistyped setting.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: mend it or begin a new run.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings: mend it or begin a new run.")
    version = values.pop("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{path} is of version {version} and this pack reads up to {VERSION}: update the pack."
        )
    kind = TASKS.get(str(values.pop("task", TrainingConfig.task)))
    if kind is None:
        raise UserError(f"{path} has an unknown task: give one of {', '.join(TASKS)}.")
    known = {field.name: field for field in fields(kind)}
    if version < VERSION:
        values = {name: value for name, value in LEGACY_DEFAULTS.items() if name in known} | values
    for name, value in values.items():
        if name not in known:
            raise UserError(f'{path} has an unknown setting "{name}": remove it.')
        if not _is_of_type(value, str(known[name].type)):
            raise UserError(f'{path}: "{name}" is {value!r}, not of type {known[name].type}.')
    try:
        return kind(**values | {"base_loras": tuple(values.get("base_loras", ()))})
    except TypeError as error:
        raise UserError(f"{path} lacks a setting ({error}): add it.") from error


def _is_of_type(value: object, kind: str) -> bool:
    if kind.startswith("tuple"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value).__name__ == kind
