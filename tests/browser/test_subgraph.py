"""Subgraphs: panels of nodes inside, and the pack's blueprints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.write_blueprints import BLUEPRINTS, Blueprint, subgraph_workflow

from tests.browser.conftest import FIRST_AND_LAST, QUANTIZED, build
from tests.host.test_blueprints import between_core_nodes

WRAP = """() => {
    const node = app.graph.nodes.find((node) => node.type === 'Quantize');
    app.graph.convertToSubgraph(new Set([node]));
}"""

ENTER = """() => {
    const outer = app.graph.nodes.find((node) => node.subgraph);
    if (!outer) return false;
    if (app.canvas.graph !== outer.subgraph) app.canvas.setGraph(outer.subgraph);
    app.canvas.ds.scale = 1;
    app.canvas.centerOnNode(outer.subgraph.nodes[0]);
    app.canvas.setDirty(true, true);
    return true;
}"""

pytestmark = pytest.mark.parametrize("tab", FIRST_AND_LAST, indirect=True)


def test_its_panel_is_there_and_there_again_after_a_reload(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    build(tab, QUANTIZED)
    page.evaluate(WRAP)
    page.wait_for_function(ENTER)
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_selector(".kd-bars")
    tab.screenshot(tmp_path / "inside.png")
    told = page.inner_text(".kd-where")
    tab.wait_for_draft()
    tab.open()
    page.wait_for_function(ENTER)
    page.wait_for_selector(".kd-bars")
    assert page.inner_text(".kd-where") == told
    assert tab.errors == []


SENT = """async (workflow) => {
    await app.loadGraphData(workflow);
    return (await app.graphToPrompt()).output;
}"""


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda one: one.name)
def test_the_browser_sends_a_blueprint_as_it_is_tested(
    tab: Tab, blueprint: Blueprint, tmp_path: Path
) -> None:
    """tests/host/test_blueprints.py runs what comfy-cli makes of each."""
    workflow = between_core_nodes(subgraph_workflow(blueprint))
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(workflow), encoding="utf-8")
    sent = tab.page.evaluate(SENT, workflow)
    expected = as_sent(tab.server, file)
    inside = [key for key in expected if ":" in key]
    assert {key: sent[key]["inputs"] for key in inside} == {
        key: expected[key]["inputs"] for key in inside
    }
    assert tab.errors == []
