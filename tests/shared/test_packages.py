"""Packages that only some nodes need."""

from __future__ import annotations

import sys

import pytest
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.packages import require_packages


def test_missing_packages_are_named_with_the_command_of_this_python() -> None:
    require_packages("Training", "torch>=1", "numpy")
    with pytest.raises(UserError) as error:
        require_packages("Training", "torch>=1", "not_there>=2.5", options="--no-deps")
    command = f'"{sys.executable}" -m pip install --no-deps "not_there>=2.5"'
    assert f"Training needs packages that are not installed: run {command} in" in str(error.value)
