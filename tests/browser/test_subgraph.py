"""A node inside a subgraph has its panel too, and it is there again after a reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab

from tests.browser.conftest import FIRST_AND_LAST, QUANTIZED, build

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
