"""Packages that only some nodes need."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

from .errors import UserError

TRAINING = ("lightning>=2.5", "tensorboard>=2.14")
"""What training needs besides requirements.txt: the extra `training` of pyproject.toml."""


def require_packages(subject: str, *requirements: str, options: str = "") -> None:
    """Raise UserError unless packages are installed; the message has the command of this Python.

    subject: what needs them; requirements: such as "lightning>=2.5"; options: for pip.
    """
    missing = [line for line in requirements if find_spec(re.split("[<>=]", line)[0]) is None]
    if missing:
        names = " ".join(f'"{line}"' for line in missing)
        command = " ".join(f'"{sys.executable}" -m pip install {options} {names}'.split())
        raise UserError(
            f"{subject} needs packages that are not installed: run {command} in a terminal, and "
            "restart ComfyUI."
        )
