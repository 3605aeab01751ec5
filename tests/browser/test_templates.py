"""Every saved workflow opens from the template browser, no node missing or hidden, and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.demo.comfyui_server import PACK_NAME, ROOT
from kosmos_dreambooth.dev.demo.run_workflows import models_of

from tests.browser.conftest import FIRST_AND_LAST

WORKFLOWS = [
    file
    for file in sorted((ROOT / "workflows").glob("*.json"), key=lambda file: file.name)
    if not any(map(models_of, json.loads(file.read_text(encoding="utf-8"))["nodes"]))
]
"""Those that need no weights from elsewhere."""
LONG_MS = 300_000
SETTLE_MS = 700
"""A view moves, pictures load, and Vue draws what comes into sight."""

HURRY = """() => {
    const few = {
        DreamBoothTrain: { steps: 4 },
        FineTuneCaptions: { steps: 4 },
        TrainingOptions: { preview_every: 2, checkpoint_every: 2 },
        TextualInversionTrain: { steps: 4 },
        PriorGenerator: { count: 4 },
        EvaluateSubject: { count: 1, steps: 4 },
        GroundedCaption: { language: 'English' },
    };
    const graphs = [app.graph, ...app.graph.subgraphs.values()];
    for (const node of graphs.flatMap(({ nodes }) => nodes))
        for (const [name, value] of Object.entries(few[node.type] ?? {}))
            node.widgets.find((widget) => widget.name === name).value = value;
}"""
"""Let what takes minutes take seconds; four steps teach no other language."""

LISTEN = """() => {
    window.ended = null;
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(kind, ({ detail }) => (window.ended = { kind, ...detail }));
}"""

pytestmark = pytest.mark.parametrize("tab", FIRST_AND_LAST, indirect=True)


def open_template(tab: Tab, file: Path) -> None:
    """Choose a saved workflow in the template browser."""
    page = tab.page
    page.keyboard.press("Escape")  # a sentence that an earlier one ended with
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK_NAME, exact=True).first.click()
    card = page.get_by_test_id(f"template-workflow-{file.stem}")
    card.get_by_text(file.stem).first.click()  # a note that is open may name it too


def see_all(tab: Tab) -> None:
    """Bring all nodes into sight: what lies out of it is not drawn."""
    tab.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    tab.page.wait_for_timeout(SETTLE_MS)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_it_opens_with_all_its_nodes_in_sight_and_runs(
    tab: Tab, file: Path, tmp_path: Path
) -> None:
    page = tab.page
    saved = json.loads(file.read_text(encoding="utf-8"))
    open_template(tab, file)
    kinds = sorted(node["type"] for node in saved["nodes"])
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(kinds))
    assert sorted(page.evaluate("() => app.graph.nodes.map((node) => node.type)")) == kinds
    missing = "() => app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type)"
    assert page.evaluate(missing) == []
    page.wait_for_timeout(SETTLE_MS)
    tab.screenshot(tmp_path / f"{file.stem}_opened.png")
    see_all(tab)
    assert tab.overlapping() == []
    page.evaluate(HURRY)
    page.evaluate(LISTEN)
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function("() => window.ended", timeout=LONG_MS)
    ended = page.evaluate("() => window.ended")
    assert ended["kind"] == "execution_success", ended.get("exception_message")
    see_all(tab)
    tab.screenshot(tmp_path / f"{file.stem}.png")
    if not page.locator("[data-node-id]").count():  # Vue nodes grow with the preview of a sampler
        assert tab.overlapping() == []
    assert tab.errors == []
