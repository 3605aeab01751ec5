"""CompareEmbeddings in the browser: details of the pair under the pointer or chosen by keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab

from tests.browser.conftest import build
from tests.host.conftest import Graph, scene

TEXTS = ["a red dog", "a blue boat", "a purple cup"]


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    inputs = {"method": "likelihood", "text": "\n".join(TEXTS)}
    graph = (
        Graph()
        .load_images(tab.server.input, scene(0, 64), scene(1, 64), name="compared")
        .add("kosmos", "LoadKosmos")
        .add("embed", "EmbedImageText", kosmos=["kosmos", 0], image=["images", 0], **inputs)
        .add("compare", "CompareEmbeddings", rows=["embed", 1], columns=["embed", 0], top=2)
        .add("matrix", "PreviewImage", images=["compare", 4])
    )
    build(tab, graph)
    tab.run("CompareEmbeddings", ".kd-cells")
    return tab


def names(tab: Tab) -> list[str]:
    return tab.page.locator(".kd-details span").all_inner_texts()


def test_the_pair_under_the_pointer_is_shown(shown: Tab, tmp_path: Path) -> None:
    cells = shown.page.locator(".kd-cells")
    box = cells.bounding_box()
    assert box is not None
    place = {"x": box["width"] * 0.75, "y": box["height"] * 0.9}
    shown.page.mouse.move(box["x"] + place["x"], box["y"] + place["y"])
    assert names(shown) == [TEXTS[2], "image 2"]
    assert "rank 1 of 2" in shown.page.inner_text(".kd-details output")
    assert shown.page.locator(".kd-pair svg image").count() == 1
    shown.screenshot(tmp_path / "matrix.png")
    assert shown.errors == []


def test_arrow_keys_choose_a_pair(shown: Tab) -> None:
    shown.page.locator(".kd-matrix").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        shown.page.keyboard.press(key)
    assert names(shown) == [TEXTS[0], "image 1"]
    shown.page.keyboard.press("ArrowDown")
    assert names(shown) == [TEXTS[1], "image 1"]


def test_the_panel_is_restored_after_a_reload(shown: Tab) -> None:
    shown.reopen("CompareEmbeddings", ".kd-cells")
    assert names(shown) == [TEXTS[0], "image 1"]
    assert shown.errors == []
