"""What ComfyUI's registry checks before it publishes a pack."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
import zipfile
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import COMFY, QUIET
from kosmos_dreambooth.dev.demo.comfyui_server import PACK_NAME, ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from tests.test_pages import NODES, PAGES, missing_files

BANNER = (21, 9)


def comfy_node(command: str) -> str:
    """Run comfy-cli's `node` command, which must succeed, and return what it prints."""
    done = subprocess.run(
        [str(COMFY), "--skip-prompt", "node", command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | QUIET,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack as the registry's users get it, in the custom nodes of an empty host."""
    folder = tmp_path_factory.mktemp("registry") / "custom_nodes" / PACK_NAME
    comfy_node("pack")
    archive = ROOT / "node.zip"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    archive.unlink()
    return folder


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_comfy_cli_validates_the_pack() -> None:
    printed = comfy_node("validate")
    assert "All validation checks passed" in printed
    assert "warning" not in printed.lower()


def test_pages_of_the_package_point_to_files_in_it(package: Path) -> None:
    pages = [package / page.relative_to(ROOT) for page in PAGES]
    assert {page: missing for page in pages if (missing := missing_files(page, package))} == {}


def test_the_package_works_on_an_empty_host(package: Path) -> None:
    with ComfyUI(package.parents[1]) as server:
        nodes = Client(server.address).nodes()
        assert all(nodes[node]["python_module"].endswith(PACK_NAME) for node in NODES)
        for node in NODES:
            urllib.request.urlopen(f"{server.address}/extensions/{PACK_NAME}/docs/{node}.md")
        [workflow, *_] = Client(server.address).get("/workflow_templates")[PACK_NAME]
        template = f"/api/workflow_templates/{PACK_NAME}/{workflow}.json"
        assert Client(server.address).get(template)["nodes"]


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
