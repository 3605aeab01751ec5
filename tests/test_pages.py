"""Pages for readers: their links, paths and commands exist, and the README is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
NODES = json.loads((ROOT / "tests" / "host" / "promises.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    ROOT / "sandbox" / "MODEL_CARD.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "web" / "docs").glob("*.md")),
    *sorted((ROOT / "workflows").glob("*.json")),
]
LINK = re.compile(r"\]\(([^)#]+)\)|(?:href|src)=\"([^\"#]+)\"")
FOLDERS = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")
FILE = re.compile(rf"(?<![\w/.<-])(?:{FOLDERS})/[\w./-]*(?![\w<*…])")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    """A page's text; of a workflow, its notes."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".json":
        return text
    notes = (node for node in json.loads(text)["nodes"] if node["type"] == "MarkdownNote")
    return "\n".join(note["widgets_values"][0] for note in notes)


def missing_files(page: Path, root: Path) -> list[str]:
    """The files and folders of the pack at `root` that a page of it links to or names in vain."""
    text = text_of(page)
    links = ["".join(link) for link in LINK.findall(text)]
    linked = [page.parent / link for link in links if "://" not in link]
    named = [root / name.rstrip(".") for name in FILE.findall(text)]
    named = [file for file in named if file.suffix != ".safetensors"]
    return [str(file) for file in linked + named if not file.exists()]


@every_page
def test_linked_and_named_files_exist(page: Path) -> None:
    assert missing_files(page, ROOT) == []


@every_page
def test_named_commands_exist(page: Path) -> None:
    text = text_of(page)
    assert set(re.findall(r"python\s+-m dev ([\w-]+)", text)) <= {"list", *COMMANDS}
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)", text)) <= set(targets)


def test_each_guarantee_of_security_has_a_test() -> None:
    rows = (ROOT / "SECURITY.md").read_text(encoding="utf-8").split("|---|---|")[1].split("\n\n")[0]
    for row in rows.strip().splitlines():
        held = row.split("|")[2]
        sources = "".join(
            (ROOT / name).read_text() for name in re.findall(r"tests/[\w/]+\.py", held)
        )
        names = re.findall(r"`(test_\w+)`", held)
        assert names, row
        assert all(f"def {name}(" in sources for name in names), row


def test_the_readme_has_a_row_for_each_node() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(web/docs/\1\.md\) \|", README, re.MULTILINE)
    assert set(rows) == set(NODES)


def test_the_readme_shows_each_workflow() -> None:
    files = {file.name for file in (ROOT / "workflows").glob("*.json")}
    assert set(re.findall(r"href=\"workflows/([\w.]+\.json)\"", README)) == files
