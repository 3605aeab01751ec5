"""Identify Kosmos-2 models by the contents of their files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..shared.model_folders import hash_files
from .kosmos_model import Kosmos


def fingerprint(kosmos: Kosmos) -> str:
    """Return SHA-256, in hex, of a model's weights, configuration and vocabulary, and its LoRAs."""
    return hash_model(Path(kosmos.source), map(Path, kosmos.loras))


def hash_model(source: Path, loras: Iterable[Path]) -> str:
    """Return the fingerprint of the model in a folder with LoRA files merged into it."""
    files = [*sorted(source.glob("*.json")), *sorted(source.glob("*.safetensors"))]
    return hash_files(source, [*files, *loras])
