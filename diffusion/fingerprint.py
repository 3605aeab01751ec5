"""Hash a model by the contents of its files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from .diffusion_model import Diffusion
from .load.model_source import PARTS


def fingerprint(diffusion: Diffusion) -> str:
    """SHA-256, in hex, of a model's weights, configurations and vocabulary and of its LoRAs.

    Equal models in different folders have the same fingerprint. File hashes are cached, see
    `file_hash`.
    """
    source = Path(diffusion.source)
    files = [file for part in PARTS for file in sorted(source.glob(f"{part}/*"))] or [source]
    digest = hashlib.sha256()
    for file in (*files, *map(Path, diffusion.loras)):
        if file.suffix in (".safetensors", ".json", ".txt"):
            name = file.relative_to(source).as_posix() if source in file.parents else file.suffix
            digest.update(f"{name}:{file_hash(file)}\n".encode())
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's contents, in hex, cached until its size or modification time changes."""
    state = file.stat()
    return _file_hash(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
