"""Files that are either whole or not there, for all engines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path`, which is not there yet, when all went well.

    What an attempt that was killed has left behind is removed first.
    """
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        shutil.rmtree(left)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file by `atomic_write`."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")
