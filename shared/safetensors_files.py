"""Read safetensors files that may be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def is_complete(file: Path) -> bool:
    """Whether a file is safetensors with all the bytes and at least one of the tensors it lists."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            return bool(list(tensors.keys()))
    except (SafetensorError, OSError):
        return False


def is_complete_model(path: Path) -> bool:
    """Whether a file, or each weights file of a model folder, `is_complete`."""
    if not path.is_dir():
        return is_complete(path)
    files = list(path.rglob("*.safetensors"))
    return bool(files) and all(map(is_complete, files))


def read_tensors(file: Path, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises UserError, which ends with the `remedy`, when it is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        state = "damaged" if file.exists() else "missing"
        raise UserError(f"{file} is {state} ({error}): {remedy}.") from error
