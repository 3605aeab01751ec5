"""PatchTokens in the browser: a clicked patch shows the patches similar to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab

from tests.browser.conftest import build
from tests.host.conftest import Graph, scene

WIDGETS = """
    () => Object.fromEntries(app.graph.nodes.find((node) => node.comfyClass === "PatchTokens")
        .widgets.map(({ name, value }) => [name, value]))
"""


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    image = scene(0, 64).resize((200, 100))
    graph = (
        Graph()
        .load_images(tab.server.input, image, name="patched")
        .add("kosmos", "LoadKosmos")
        .add("patches", "PatchTokens", kosmos=["kosmos", 0], image=["images", 0])
    )
    build(tab, graph)
    tab.run("PatchTokens", ".kd-heat")
    return tab


def heat(tab: Tab) -> str:
    return tab.page.get_attribute(".kd-heat", "href")


def test_a_patch_that_is_clicked_shows_what_is_like_it(shown: Tab, tmp_path: Path) -> None:
    page = shown.page
    asked = heat(shown)
    assert page.inner_text(".kd-bar output >> nth=0") == "similar to a dog"
    box = page.locator(".kd-heat").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 5.5 / 8, box["y"] + box["height"] * 2.5 / 8)
    assert page.inner_text(".kd-bar output >> nth=0") == "similar to the patch in row 2, column 5"
    clicked = heat(shown)
    assert clicked != asked
    told = page.evaluate(WIDGETS)
    assert (told["compare_with"], told["row"], told["column"]) == ("patch", 2, 5)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(WIDGETS)["row"] == 3
    assert heat(shown) not in (asked, clicked)
    shown.screenshot(tmp_path / "patches.png")
    page.get_by_role("button", name="Back").click()
    assert heat(shown) == asked
    assert shown.errors == []
