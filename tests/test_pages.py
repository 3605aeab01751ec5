"""The README and the other pages: their links lead somewhere, and nothing is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NODES = json.loads((ROOT / "tests" / "host" / "promises.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*.md")]
LINK = re.compile(r"\]\(([^)#]+)\)|(?:href|src)=\"([^\"#]+)\"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    found = ["".join(link) for link in LINK.findall(page.read_text(encoding="utf-8"))]
    files = [page.parent / link for link in found if "://" not in link]
    assert [str(file) for file in files if not file.exists()] == []


def test_the_readme_has_a_row_for_each_node() -> None:
    assert set(re.findall(r"^\| \[(\w+)\]\(web/docs/\1\.md\) \|", README, re.MULTILINE)) == set(
        NODES
    )


def test_the_readme_shows_each_workflow() -> None:
    saved = {file.name for file in (ROOT / "workflows").glob("*.json")}
    assert set(re.findall(r"href=\"workflows/(\w+\.json)\"", README)) == saved
