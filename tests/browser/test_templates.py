"""Every saved workflow opens from the template browser, and none of its nodes is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.demo.comfyui import PACK_NAME, ROOT

from tests.browser.conftest import Tab

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"), key=lambda file: file.name)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_it_opens_with_all_its_nodes(tab: Tab, file: Path, tmp_path: Path) -> None:
    page = tab.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK_NAME, exact=True).first.click()
    tab.picture(tmp_path / "templates.png")
    page.get_by_text(file.stem).first.click()
    saved = json.loads(file.read_text(encoding="utf-8"))
    kinds = sorted(node["type"] for node in saved["nodes"])
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(kinds))
    assert sorted(page.evaluate("() => app.graph.nodes.map((node) => node.type)")) == kinds
    missing = "() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)"
    assert page.evaluate(missing) == []
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(500)
    tab.picture(tmp_path / f"{file.stem}.png")
    assert tab.errors == []
