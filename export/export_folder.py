"""An export on disk: a folder that is whole or not there, and says what it holds."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shared.atomic_files import atomic_folder, write_text
from ..shared.errors import UserError

MANIFEST_FILE = "export.json"
"""The file that tells an export from any other folder."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
"""What a disk says when it does not take a file."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What `export.json` says.

    kind: "kosmos-2" or "stable-diffusion". format and precision: as they were chosen.
    made_from: the model's name. parameters: how many weights it had.
    parts: for each graph its file, bytes, seconds to write, inputs, outputs, and its difference to
        PyTorch (`export.tolerance.relative_error`; None where this machine cannot run it).
    made_with: versions of the packages that wrote it.
    compared: on how many pictures, and how many captions were the same.
    reads: what a program needs to know that feeds the graphs (see `runtime_settings` in
        `export_kosmos` and `export_diffusion`).
    """

    kind: str
    format: str
    precision: str
    made_from: str
    parameters: int
    parts: list[Json]
    made_with: dict[str, str]
    compared: Json
    reads: Json = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Put it into a folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_text(folder / MANIFEST_FILE, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it from a folder; UserError when that is no export."""
        try:
            return cls(**json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise UserError(
                f'"{folder.name}" is not an export: it holds no {MANIFEST_FILE}. Choose a folder '
                "that ExportModel wrote."
            ) from error
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f'The {MANIFEST_FILE} of "{folder.name}" is damaged: export the model again.'
            ) from error


def is_export(folder: Path) -> bool:
    """Tell whether a folder is one that ExportModel wrote."""
    return (folder / MANIFEST_FILE).is_file()


@contextmanager
def new_export_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to write into, which becomes `folder` when the block ends well.

    Whatever happens meanwhile, there is never a half-written `folder`; what an error or a Cancel
    leaves is removed at once, and what a killed process left, by the next export of that name.

    Raises UserError when `folder` exists, and when the disk does not take it.
    """
    if folder.exists():
        raise UserError(f'There is already a "{folder.name}" there: give another name.')
    try:
        with atomic_folder(folder) as draft:
            yield draft
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UserError(
            f"{folder} could not be written ({error.strerror}): make room on that disk "
            "and queue again."
        ) from error
