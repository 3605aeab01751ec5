"""Tell models apart by the contents of their files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from .diffusion_model import Diffusion
from .load.model_source import PARTS

CHUNK = 1 << 20


def fingerprint(diffusion: Diffusion) -> str:
    """SHA-256, in hex, of a model's weights, configurations and vocabulary and of its LoRAs.

    Equal models in different folders have the same fingerprint. A file that has not changed in
    size or time since it was last read is not read again.
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
    """SHA-256 of a file's contents, in hex, remembered until its size or time changes."""
    state = file.stat()
    return _file_hash(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
