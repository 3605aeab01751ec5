"""Names of files and folders that users type or files contain, confined to a folder."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from .errors import UserError

MAX_BYTES = 255
"""Bytes of a file's or folder's name, the limit of most file systems."""

MOST_BYTES_OF_PATH = 1024
"""Bytes of a relative path, the limit of macOS; that of Linux is 4096 with the folders above."""

DEVICE = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|CLOCK\$|COM[0-9\u00b9\u00b2\u00b3]|LPT[0-9\u00b9\u00b2\u00b3])"
    r"\s*(\..*)?",
    re.IGNORECASE,
)
"""Names that Windows opens as a device, with any suffix."""

FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]')
"""Characters that Windows does not allow in names (":" also begins an alternate stream), control
characters, those that change the direction of text, and lone surrogates, which UTF-8 has no bytes
for."""


def name_problem(name: str) -> str | None:
    """Say what is wrong with a relative path, for any operating system; None for a valid one.

    `/` and `\\` separate folders. A valid path stays inside the folder that it is joined to, on
    Windows and elsewhere, and can be created there.
    """
    if re.match(r"[A-Za-z]:", name):
        return "a drive"
    if name.startswith(("/", "\\")):
        return "a leading slash"
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if not parts:
        return "no name"
    for part in parts:
        if part == "..":
            return '".."'
        if found := FORBIDDEN.search(part):
            return f"the character {found[0]!a}"
        if part != part.strip() or part.endswith("."):
            return "a space or full stop at an end"
        if DEVICE.fullmatch(part):
            return f"the device name {part}"
        if len(part.encode()) > MAX_BYTES:
            return f"a part of more than {MAX_BYTES} bytes"
    if len(name.encode()) > MOST_BYTES_OF_PATH:
        return f"more than {MOST_BYTES_OF_PATH} bytes"
    return None


def confined(root: Path, *names: str) -> Path:
    """Return the path of relative paths inside a folder.

    Raises UserError for one with a `name_problem`.
    """
    for name in names:
        if problem := name_problem(name):
            raise UserError(
                f'"{name}" is no name inside {root.name}, as it has {problem}: use a name without '
                '"..", drive, leading slash and special characters.'
            )
    return root.joinpath(*(PurePosixPath(name.replace("\\", "/")) for name in names))
