"""The workflow "Teach a subject" opens as an app: five inputs, Run, and the images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT

from tests.browser.conftest import FACES
from tests.browser.test_templates import HURRY, LONG_MS, open_template

FILE = ROOT / "workflows" / "teach_a_subject.app.json"

pytestmark = pytest.mark.parametrize("tab", FACES[-1:], indirect=True)


def test_it_shows_five_inputs_and_the_images(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    open_template(tab, FILE)
    labels = page.get_by_test_id("builder-widget-label")
    labels.nth(4).wait_for()
    saved = json.loads(FILE.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in saved["nodes"]}
    assert labels.all_inner_texts() == [
        place["label"]
        for node, name, *_ in saved["extra"]["linearData"]["inputs"]
        for place in nodes[node]["inputs"]
        if place["name"] == name
    ]
    tab.screenshot(tmp_path / "opened.png")
    page.evaluate(HURRY)
    page.get_by_test_id("linear-run-button").get_by_role("button").last.click()
    page.get_by_test_id("linear-image-output").first.wait_for(timeout=LONG_MS)
    tab.screenshot(tmp_path / "images.png")
    assert tab.errors == []
