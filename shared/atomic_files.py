"""Write files and folders atomically, and say why one could not be written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
from safetensors import SafetensorError

from .errors import UserError
from .json_files import reason
from .text_files import replace_surrogates

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS,)
FORBIDDEN = (errno.EACCES, errno.EPERM, *READ_ONLY)
REMEDIES = {
    **dict.fromkeys(FULL, "free disk space there, and queue again"),
    **dict.fromkeys(FORBIDDEN, "allow writing to that folder, or choose another one"),
    **dict.fromkeys(
        (errno.ENOTEMPTY, errno.EEXIST),
        "another process made it meanwhile, so queue again or choose another name",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
        "a file and a folder have the same name, so rename one of them",
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What users can do about an error of the file system, by its number."""

WINDOWS_DISK_FULL = "112"

DRAFT_SUFFIX, REPLACED_SUFFIX = ".tmp", ".old"
"""Of drafts, and of the earlier folder in the moment in which a new one replaces it."""

OLD_DRAFT_SECONDS = 7 * 24 * 3600
"""After this time a draft of another computer, on a shared disk, is one of a dead process."""

SAME_START_SECONDS = 60
"""How far two measurements of a process's start may differ when the clock is set meanwhile."""

_numbers = count()
_cleaned: set[Path] = set()


def write_error(path: Path, error: Exception) -> UserError:
    """Return the error for a file or folder that cannot be written."""
    number = getattr(error, "errno", None)
    if any(parent.is_file() for parent in path.parents):
        number = errno.ENOTDIR
    elif match := re.search(r"(?:os error|Errno) (\d+)", str(error)):  # safetensors, shutil
        number = errno.ENOSPC if match[1] == WINDOWS_DISK_FULL else int(match[1])
    elif "encoder error" in str(error):  # of Pillow, which loses the number
        number = errno.ENOSPC
    remedy = REMEDIES.get(number or 0, "check that disk, and queue again")
    text = os.strerror(number) if number in REMEDIES else reason(error)
    return UserError(f"{path} could not be written ({text}): {remedy}.")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise UserError, which names `path`, in place of errors of the file system."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise write_error(path, error) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to; it replaces `path` when the block succeeds.

    In case of an error, SIGKILL or a power cut, `path` is still the old file or already the new
    one. When the block raises, the draft is removed. Raises UserError when the disk is full or the
    folder may not be written to.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = draft_path(path)
        try:
            yield draft
            _flush_to_disk(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        if os.name == "posix":
            _flush_to_disk(path.parent)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path` when the block succeeds.

    With `overwrite` it replaces the folder of that name. Raises UserError when there is one
    without `overwrite`, when the disk is full and when the folder may not be written to.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = draft_path(path)
        old = draft.with_suffix(REPLACED_SUFFIX)
        draft.mkdir()
        try:
            yield draft
            if overwrite and path.exists():
                path.replace(old)
            draft.replace(path)
        finally:
            if old.exists() and not path.exists():
                old.replace(path)
            for folder in (draft, old):
                shutil.rmtree(folder, ignore_errors=True)


def draft_path(path: Path) -> Path:
    """Return a new path next to `path` for its draft, of a short and hidden name.

    Drafts that dead processes have left in that folder are removed, once for each folder.
    """
    folder = path.parent
    if folder not in _cleaned:
        _cleaned.add(folder)
        for entry in os.scandir(folder) if folder.is_dir() else ():
            if entry.name.endswith(DRAFT_SUFFIX) and _is_dead(Path(entry.path)):
                _remove(Path(entry.path))
    return folder / f".{_owner()}-{next(_numbers)}{DRAFT_SUFFIX}"


def is_draft(name: str) -> bool:
    """Whether a file or folder of this name is an unfinished draft."""
    return name.endswith(DRAFT_SUFFIX) or (name.startswith(".") and name.endswith(REPLACED_SUFFIX))


def _owner() -> str:
    """Return what names this process among those of all computers and all times."""
    process = psutil.Process()
    return f"{_computer()}-{process.pid}-{int(process.create_time()):x}"


def _computer() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _is_dead(draft: Path) -> bool:
    """Whether the process that a draft belongs to has ended; False for other files."""
    parts = draft.name.lstrip(".").removesuffix(DRAFT_SUFFIX).split("-")
    if len(parts) != 4 or not draft.name.startswith("."):
        return False
    computer, pid, started, _ = parts
    if computer != _computer():
        return time.time() - draft.stat().st_mtime > OLD_DRAFT_SECONDS
    try:
        created = psutil.Process(int(pid)).create_time()
    except (psutil.Error, ValueError):
        return True
    return abs(created - int(started, 16)) > SAME_START_SECONDS


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file atomically, with U+FFFD for lone surrogates.

    Raises UserError when it cannot be written.
    """
    with atomic_write(path) as draft:
        draft.write_text(replace_surrogates(text), encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where there are no links, atomically.

    Raises UserError when it cannot be written; an earlier `target` is kept then.
    """
    with atomic_write(target) as draft:
        try:
            os.link(source, draft)
        except OSError:
            shutil.copyfile(source, draft)
