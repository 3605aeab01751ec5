"""Find and check safetensors files in model folders: whole, sharded, and variants."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .errors import UserError
from .json_files import read_json

LFS_POINTER = b"version https://git-lfs"
INDEX = ".safetensors.index."
NOISY_LOGGERS = (
    "diffusers.loaders.single_file_utils",
    "diffusers.models.modeling_utils",
)


def find_variant(folder: Path, stem: str) -> str | None:
    """Return the `variant` that from_pretrained takes to load the weights in a folder.

    `stem` is "model" or "diffusion_pytorch_model". None stands for <stem>.safetensors and
    <stem>.safetensors.index.json with its shards; other variants have an infix, such as
    <stem>.fp16.safetensors or <stem>.safetensors.index.fp16.json; fp16 and bf16 are preferred.
    Raises UserError when there are no weights, or a file of them is missing or damaged.
    """
    variants = _variants(folder, stem)
    if not variants:
        raise UserError(
            f"{folder} contains no {stem}.safetensors: only safetensors are read, so convert the "
            "weights or download that file."
        )
    order = (None, "fp16", "bf16")
    known = [variant for variant in order if variant in variants]
    variant = known[0] if known else min(variants, key=str)
    for file in _shards(variants[variant]):
        require_safetensors(file)
    return variant


def _variants(folder: Path, stem: str) -> dict[str | None, Path]:
    """The file or index of each variant; a whole file comes before an index."""
    variants: dict[str | None, Path] = {}
    for file in sorted(folder.glob(f"{stem}.*")):
        name = file.name.removeprefix(f"{stem}.")
        if name.startswith(INDEX[1:]) and name.endswith("json"):
            variants.setdefault(name[len(INDEX) - 1 : -len(".json")] or None, file)
        elif f".{name}".endswith(".safetensors") and "-of-" not in name:
            variants[name.removesuffix("safetensors").rstrip(".") or None] = file
    return variants


def _shards(file: Path) -> list[Path]:
    """The safetensors files of a variant. Raises UserError for an index that lists others."""
    if file.suffix != ".json":
        return [file]
    names = read_json(file, "download the model again").get("weight_map")
    names = set(names.values()) if isinstance(names, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{file} lists no files: download the model again.")
    return [file.with_name(name) for name in sorted(names)]


def require_safetensors(file: Path) -> None:
    """Raise UserError unless `file` is a complete safetensors file."""
    try:
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(
                    f"{file} is a git-lfs pointer and not the weights themselves: run git lfs pull "
                    "in its folder, or download the file."
                )
        with safe_open(file, framework="pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as reason:
        raise UserError(
            f"{file} is damaged or incomplete ({reason}): download it again."
        ) from reason


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Suppress diffusers' warnings while a model is loaded: none of them needs an action."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
