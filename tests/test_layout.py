"""The house: what may import what, and what an import of the pack costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("kosmos", "diffusion", "training", "sandbox", "quantize", "export")
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution"}


def imports_of(file: Path) -> set[str]:
    """The first part of every module that a file imports; relative ones from the pack's root."""
    package = list(file.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            path = base + (node.module.split(".") if node.module else [])
            found |= {path[0]} if path else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_knows_neither_comfyui_nor_the_nodes(engine: str) -> None:
    files = list((ROOT / engine).rglob("*.py"))
    assert files
    for file in files:
        assert not imports_of(file) & (COMFYUI | {"nodes"}), file


def test_only_the_seam_knows_more_of_comfyui_than_its_public_interface() -> None:
    for file in (ROOT / "nodes").rglob("*.py"):
        if file.parent.name != "host":
            assert not imports_of(file) & (COMFYUI - {"comfy_api"}), file


def test_only_training_leans_on_another_engine() -> None:
    for engine in ("kosmos", "diffusion"):
        for file in (ROOT / engine).rglob("*.py"):
            assert not imports_of(file) & (set(ENGINES) - {engine}), file


def imported_with(file: Path) -> tuple[set[Path], set[str]]:
    """The pack's own files, and other packages, that importing a file imports at once."""
    files, others = set(), set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [base, *(base / alias.name for alias in node.names)]
            files |= {name.with_suffix(".py") for name in names} | {
                name / "__init__.py" for name in names
            }
    return {found for found in files if found.exists()}, others


def test_comfyui_starts_without_waiting_for_heavy_libraries() -> None:
    waiting, seen, others = set((ROOT / "nodes").rglob("*.py")), set(), set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        files, packages = imported_with(file)
        others |= packages
        waiting |= files - seen
    assert ROOT / "training" / "config.py" in seen
    assert not others & {"accelerate", "diffusers", "lightning", "peft", "transformers"}


def test_importing_the_pack_imports_no_torch_and_no_comfyui() -> None:
    program = (
        "import sys; from as_package import load; load('errors');"
        "print(*sorted({'torch', 'comfy', 'comfy_api', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_both_lists_of_requirements_are_the_same() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]
