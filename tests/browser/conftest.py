"""A real browser on the real server; these tests are skipped where none is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import CHROMIUM_NAMES, Tab, chromium, configure, launch
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs

from tests.host.conftest import Graph

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NEWEST = ROOT / ".cache" / "frontend" / "comfyui_frontend_package" / "static"
"""A newer frontend than ComfyUI's own; `make browser` unpacks it."""

FACES = ["pinned-classic", "pinned-vue", "newest-classic", "newest-vue"]
"""The frontend that ComfyUI pins and the newest one; nodes drawn on the canvas and by Vue."""

FIRST_AND_LAST = [FACES[0], FACES[-1]]

QUANTIZED = (
    Graph()
    .add("load", "LoadKosmos", dtype="fp32")
    .add("quantize", "Quantize", model=["load", 0], format="bf16", keep="")
)
"""The smallest workflow with a panel."""


def build(tab: Tab, graph: Graph) -> None:
    """Open a graph in the browser, where node ids are numbers; widgets keep their defaults."""
    numbers = {node_id: str(number) for number, node_id in enumerate(graph, 1)}
    tab.build(
        {
            numbers[node_id]: {
                "class_type": node["class_type"],
                "inputs": {
                    name: [numbers[value[0]], value[1]] if isinstance(value, list) else value
                    for name, value in node["inputs"].items()
                },
            }
            for node_id, node in graph.items()
        }
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed here; nothing is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed.")
    found = chromium()
    if found is None:
        pytest.skip(f"No browser is installed: none of {', '.join(CHROMIUM_NAMES)}.")
    with api.sync_playwright() as playwright:
        running = launch(playwright, found)
        yield running
        running.close()


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """The same server with the newest frontend."""
    if not NEWEST.exists():
        pytest.skip("No newer frontend is unpacked: `make browser` fetches one.")
    with ComfyUI(tmp_path_factory.mktemp("newest"), NEWEST) as running:
        yield running


@pytest.fixture(scope="module", params=FACES)
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab for the tests of a file, past the dialog that greets a first visitor.

    Its input folder has the images of the example workflows.
    """
    frontend, _, nodes = request.param.partition("-")
    server = request.getfixturevalue("newest_server" if frontend == "newest" else "server")
    copy_inputs(server.input)
    context = browser.new_context(
        viewport={"width": 1400, "height": 1200},
        permissions=["clipboard-read", "clipboard-write"],
    )
    configure(context, server, vue=nodes == "vue")
    opened = Tab(context.new_page(), server)
    opened.open()
    yield opened
    context.close()
