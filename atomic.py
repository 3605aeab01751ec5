"""Files that are either whole or not there, for all engines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to; it takes the place of `path` only when all went well.

    Whatever happens meanwhile (an error, SIGKILL, a power cut), `path` is the old file or the new
    one and nothing between. When the block raises, what was written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        _flush_to_disk(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if os.name == "posix":
        _flush_to_disk(path.parent)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file by `replacing`."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
