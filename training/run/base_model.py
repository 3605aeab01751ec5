"""Find the base model of a run whose folder, ComfyUI or pack was moved or renamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...shared.errors import UserError
from ..captions.caption_config import CaptionConfig
from ..config import TrainingConfig
from ..config_yaml import AnyConfig
from .run_folder import RunFolder

PACK = Path(__file__).resolve().parents[2]


def find_base(
    run: RunFolder, config: AnyConfig, models: Sequence[Path] = (), base: Path | None = None
) -> AnyConfig:
    """Return a run's settings with paths of the base model and its LoRAs that exist.

    Relative paths start at the run folder. A path where nothing is any more is looked for by its
    last parts: below all folders that contain the run or the pack, and in the hub's cache; then
    among `models`, those of its name first. The model found has the run's `base_hash`.
    base: the model to use, wherever the settings say that it is.

    Raises UserError when the model is nowhere, and when `base` is another model.
    """
    if not isinstance(config, TrainingConfig | CaptionConfig):
        return config
    loras = tuple(_find_file(run, Path(file), models) for file in config.base_loras)
    found = replace(config, base_loras=tuple(map(str, loras)))
    if isinstance(found, TrainingConfig):
        vocabulary, vae = (
            str(_find_file(run, Path(file), ())) if file else ""
            for file in (found.vocabulary, found.preview_vae)
        )
        found = replace(found, vocabulary=vocabulary, preview_vae=vae)
    if base is not None:
        if not base.exists():
            raise UserError(f"There is no model at {base}: give --base the path of the base model.")
        if not _has_hash(found, base, loras):
            raise UserError(
                f"{base} is another model than the one that the run {run.path.name} was started "
                "with (base_hash in its config.yaml): give --base a copy of that one."
            )
        return replace(found, base=str(base.resolve()))
    path = run.path / config.base
    if path.exists() and _has_hash(found, path, loras):
        return replace(found, base=str(path))
    if config.base.count("/") == 1 and not path.is_absolute():
        return found  # a hub id
    for candidate in _candidates(run, path, models):
        if _has_hash(found, candidate, loras):
            return replace(found, base=str(candidate))
    if path.exists():
        raise UserError(
            f"{config.base} is another model than the one that the run {run.path.name} was started "
            "with (base_hash in its config.yaml), such as the sandbox of another version: put that "
            "one back, or start a new run."
        )
    raise UserError(
        f"The base model of the run {run.path.name} is not at {config.base} any more and not among "
        "ComfyUI's models: put it back, or start training/worker.py with --base PATH."
    )


def _find_file(run: RunFolder, file: Path, models: Sequence[Path]) -> Path:
    """A file or folder that is part of the settings; its old path if it is nowhere."""
    path = run.path / file
    if path.exists():
        return path
    same_name = [model for model in models if model.name == path.name]
    return next(_candidates(run, path, same_name), path)


def _candidates(run: RunFolder, path: Path, models: Iterable[Path]) -> Iterator[Path]:
    """Existing paths that may be a moved one, the likeliest first."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = run.path.resolve()
    roots = dict.fromkeys([*folder.parents, PACK, *PACK.parents, Path(HF_HUB_CACHE)])
    tails = [Path(*path.parts[start:]) for start in range(1, len(path.parts))]
    for tail in tails[:-1]:  # a name alone says little, and the disk's root has many
        yield from (root / tail for root in roots if (root / tail).exists())
    yield from sorted(
        (model for model in models if model.suffix == path.suffix or model.name == path.name),
        key=lambda model: model.name != path.name,
    )


def _has_hash(config: TrainingConfig | CaptionConfig, base: Path, loras: Sequence[Path]) -> bool:
    """Whether a model has the run's hash; runs without one accept it."""
    if not config.base_hash:
        return True
    if isinstance(config, CaptionConfig):
        from ...kosmos.fingerprint import hash_model
    else:
        from ...diffusion.fingerprint import hash_model
    return all(lora.is_file() for lora in loras) and hash_model(base, loras) == config.base_hash
