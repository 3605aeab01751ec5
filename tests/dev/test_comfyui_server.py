"""The error of a ComfyUI that does not start has the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI, ServerFailedError


def test_the_error_has_the_end_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "comfyui"
    home.mkdir()
    (home / "main.py").write_text("raise SystemExit('torch is too old')")
    monkeypatch.setenv("COMFYUI_DIR", str(home))
    with pytest.raises(ServerFailedError, match="torch is too old"), ComfyUI(tmp_path / "base"):
        pass


def test_a_folder_without_a_comfyui_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ServerFailedError, match="nowhere"), ComfyUI(tmp_path / "base"):
        pass
