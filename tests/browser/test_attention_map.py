"""AttentionMap in the browser: a clicked word shows its heatmap over the image."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab

from tests.browser.conftest import build
from tests.host.conftest import Graph, scene


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    graph = (
        Graph()
        .load_images(tab.server.input, scene(0, 64), name="attended")
        .add("kosmos", "LoadKosmos")
        .add("map", "AttentionMap", kosmos=["kosmos", 0], image=["images", 0], method="attention")
        .set("map", caption="a blue dog and a brown tree")
    )
    build(tab, graph)
    tab.run("AttentionMap", ".kd-heat")
    return tab


def heatmap(tab: Tab) -> str:
    return tab.page.get_attribute(".kd-heat", "href")


def test_a_clicked_word_shows_its_heatmap(shown: Tab, tmp_path: Path) -> None:
    page = shown.page
    seen = set()
    for word in ("dog", "tree"):
        page.locator(".kd-phrase", has_text=word).click()
        assert page.inner_text(".kd-phrase[aria-pressed=true]") == word
        seen.add(heatmap(shown))
    shown.screenshot(tmp_path / "tree.png")
    assert len(seen) == 2
    page.keyboard.press("Home")
    assert page.inner_text(".kd-phrase[aria-pressed=true]") == "a"
    assert heatmap(shown) not in seen
    assert shown.errors == []


def test_the_slider_sets_the_opacity(shown: Tab) -> None:
    shown.page.get_by_label("Heat").focus()
    shown.page.keyboard.press("Home")
    assert shown.page.get_attribute(".kd-stage g", "opacity") == "0"


def test_each_layer_has_its_own_heatmap(shown: Tab, tmp_path: Path) -> None:
    shown.page.locator(".kd-phrase", has_text="dog").click()
    slider = shown.page.locator(".kd-panel").get_by_label("Layer")
    slider.focus()
    seen = [heatmap(shown)]
    for _ in range(4):
        shown.page.keyboard.press("ArrowRight")
        seen.append(heatmap(shown))
    assert len(set(seen)) == 5
    assert slider.locator("..").inner_text().endswith("3")
    shown.screenshot(tmp_path / "layer.png")
    shown.page.keyboard.press("Home")
    assert heatmap(shown) == seen[0]
