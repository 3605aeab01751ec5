"""Identify diffusion models by the contents of their files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..shared.model_folders import hash_files
from .diffusion_model import Diffusion
from .load.model_source import PARTS

SUFFIXES = (".safetensors", ".json", ".txt")


def fingerprint(diffusion: Diffusion) -> str:
    """Return the SHA-256, in hex, of a model's weights, configurations, vocabulary and LoRAs.

    Equal models in different folders have the same fingerprint.
    """
    return hash_model(Path(diffusion.source), map(Path, diffusion.loras))


def hash_model(source: Path, loras: Iterable[Path]) -> str:
    """Return the fingerprint of the model in a folder or file with LoRA files merged into it."""
    files = [file for part in PARTS for file in sorted(source.glob(f"{part}/*"))] or [source]
    files += loras
    return hash_files(source, [file for file in files if file.suffix in SUFFIXES])
