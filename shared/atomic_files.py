"""Write files and folders atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to; it replaces `path` when the block succeeds.

    In case of an error, SIGKILL or a power cut, `path` is still the old file or already the new
    one. When the block raises, the draft is removed.
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
    """Yield an empty folder to fill; it becomes `path`, a new folder, when the block succeeds.

    Drafts of attempts that were killed are removed first.
    """
    for old_draft in path.parent.glob(f"{path.name}.*.tmp"):
        shutil.rmtree(old_draft)
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
    """Write a small UTF-8 file atomically."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")
