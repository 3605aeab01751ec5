"""The folder of an export, written atomically, and its manifest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shared.atomic_files import atomic_folder, write_text
from ..shared.errors import UserError
from ..shared.json_files import parse_json, read_small_text

MANIFEST_FILE = "export.json"
"""The file by which the folder of an export is recognised."""

"""Errors of the file system that the user can mend."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The content of `export.json`.

    kind: "kosmos-2", "stable-diffusion" or "stable-diffusion-xl".
    made_from: name of the model. parameters: its number of weights.
    parts: for each graph its file, bytes, seconds to write, inputs, outputs, and its relative error
        (`tolerance.relative_error`; None where this machine cannot run the graph).
    made_with: versions of the packages that wrote it.
    compared: the number of images, and of identical captions.
    reads: settings for a program that runs the graphs, from `runtime_settings` in
        `export_kosmos` or `export_diffusion`.
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
        """Write the manifest into a folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_text(folder / MANIFEST_FILE, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder. Raises UserError when the folder is not an export."""
        try:
            manifest = cls(**parse_json(read_small_text(folder / MANIFEST_FILE)))
            if type(manifest.parameters) is not int:
                raise TypeError("parameters")
            return manifest
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
    """Return whether a folder was written by ExportModel."""
    return (folder / MANIFEST_FILE).is_file()


@contextmanager
def new_export_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `folder` when the block ends without an error.

    After an error or a Cancel it is removed; one that a killed process left is removed by the next
    export of that name. Raises UserError when `folder` exists or cannot be written.
    """
    if folder.exists():
        raise UserError(f'An export "{folder.name}" exists already: choose another name.')
    with atomic_folder(folder) as draft:
        yield draft
