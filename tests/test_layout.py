"""What each package may import, and what an import of the pack costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kosmos_dreambooth.shared.packages import TRAINING

ROOT = Path(__file__).resolve().parents[1]
ARROWS = {
    "shared": set(),
    "kosmos": {"as_package", "shared"},
    "diffusion": {"shared"},
    "drawing": {"kosmos", "shared"},
    "quantize": {"diffusion", "drawing", "kosmos", "shared"},
    "export": {"diffusion", "kosmos", "quantize", "shared"},
    "training": {"as_package", "diffusion", "drawing", "kosmos", "quantize", "shared"},
    "sandbox": set(),
    "nodes": {
        "diffusion",
        "drawing",
        "export",
        "kosmos",
        "quantize",
        "sandbox",
        "shared",
        "training",
    },
    "dev": {
        "as_package",
        "diffusion",
        "drawing",
        "export",
        "kosmos",
        "quantize",
        "sandbox",
        "shared",
        "training",
    },
}
"""Package -> the packages that its files may import from."""
WORKERS_COMFYUI = ROOT / "training" / "comfyui"
"""The only place in the engines that imports ComfyUI."""
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


def test_every_package_is_in_the_table() -> None:
    packages = {file.relative_to(ROOT).parts[0] for file in tracked() if file.parent != ROOT}
    assert packages - {"tests"} == set(ARROWS)


def tracked() -> list[Path]:
    """The Python files of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).exists()]


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    packages = set(ARROWS) | {"as_package", "tests"}
    for file in (ROOT / package).rglob("*.py"):
        assert imports_of(file) & packages <= ARROWS[package] | {package}, file


@pytest.mark.parametrize("package", sorted(set(ARROWS) - {"nodes", "dev"}))
def test_an_engine_does_not_import_comfyui(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        if file.parent != WORKERS_COMFYUI:
            assert not imports_of(file) & COMFYUI, file


def test_only_nodes_host_imports_comfyuis_internals() -> None:
    for file in (ROOT / "nodes").rglob("*.py"):
        if file.parent.name != "host":
            assert not imports_of(file) & (COMFYUI - {"comfy_api"}), file


UNSAFE = re.compile(
    r"torch\.load\(|import pickle|trust_remote_code=True|\.routes\b|(?<![.\w])(eval|exec)\("
    r"|os\.system|shell=True"
)


@pytest.mark.parametrize("package", sorted(set(ARROWS) - {"dev"}))
def test_no_package_loads_pickles_runs_foreign_code_or_adds_http_routes(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        assert not UNSAFE.search(file.read_text(encoding="utf-8")), file


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
        "import sys; from as_package import load; load('shared.errors');"
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
    extra = project["optional-dependencies"]["training"]
    lines = (ROOT / "requirements-training.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["-r requirements.txt", *extra]
    assert list(TRAINING) == extra


def test_nodes_that_do_not_train_work_without_the_packages_for_training() -> None:
    modules = (
        *("kosmos.generate.caption", "kosmos.kosmos_lora", "diffusion.sample.denoise"),
        *("training.evaluate.evaluate_run", "training.run.saved_runs"),
        "training.run.worker_process",
    )
    program = (
        "import sys; sys.modules['lightning'] = sys.modules['tensorboard'] = None;"
        f"from as_package import load; [load(name) for name in {modules}]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    users = {
        file.relative_to(ROOT).parts[0] for file in tracked() if "lightning" in imports_of(file)
    }
    assert users - {"dev", "tests"} == {"training"}
