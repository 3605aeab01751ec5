"""What ComfyUI's registry checks before it publishes a pack."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import COMFY, QUIET
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT
from PIL import Image

BANNER = (21, 9)


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_comfy_cli_validates_the_pack() -> None:
    done = subprocess.run(
        [str(COMFY), "--skip-prompt", "node", "validate"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | QUIET,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "All validation checks passed" in done.stdout
    assert "warning" not in done.stdout.lower()


def test_icon_and_banner_exist(project: dict) -> None:
    comfy = project["tool"]["comfy"]
    assert (ROOT / comfy["Icon"]).read_text(encoding="utf-8").startswith("<svg")
    with Image.open(ROOT / comfy["Banner"]) as banner:
        assert banner.width * BANNER[1] == banner.height * BANNER[0]


def test_the_version_is_semver_and_the_last_in_the_changelog(project: dict) -> None:
    version = project["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d\S*)", changelog, re.MULTILINE)[1] == version
