"""AttentionMap in the browser: a word that is clicked shows its heat over the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    Image.fromarray(draw_sample(HELD_OUT, 64).pixels).save(tab.server.input / "attended.png")
    tab.build(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "attended.png"}},
            "2": {
                "class_type": "LoadKosmos",
                "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
            },
            "3": {
                "class_type": "AttentionMap",
                "inputs": {
                    "kosmos": ["2", 0],
                    "image": ["1", 0],
                    "caption": "a blue dog and a brown tree",
                    "words": "",
                    "method": "attention",
                    "layers": "all",
                    "heads": "all",
                },
            },
        }
    )
    tab.run("AttentionMap", ".kd-heat")
    return tab


def heat(tab: Tab) -> str:
    return tab.page.get_attribute(".kd-heat", "href")


def test_a_word_that_is_clicked_shows_its_heat(shown: Tab, tmp_path: Path) -> None:
    page = shown.page
    seen = set()
    for word in ("dog", "tree"):
        page.locator(".kd-phrase", has_text=word).click()
        assert page.inner_text(".kd-phrase[aria-pressed=true]") == word
        seen.add(heat(shown))
    shown.screenshot(tmp_path / "tree.png")
    assert len(seen) == 2
    page.keyboard.press("Home")
    assert page.inner_text(".kd-phrase[aria-pressed=true]") == "a"
    assert heat(shown) not in seen
    assert shown.errors == []


def test_the_heat_is_as_opaque_as_the_slider_says(shown: Tab) -> None:
    shown.page.get_by_label("Heat").focus()
    shown.page.keyboard.press("Home")
    assert shown.page.get_attribute(".kd-stage g", "opacity") == "0"


def test_each_layer_has_its_own_heat(shown: Tab, tmp_path: Path) -> None:
    shown.page.locator(".kd-phrase", has_text="dog").click()
    slider = shown.page.locator(".kd-panel").get_by_label("Layer")
    slider.focus()
    seen = [heat(shown)]
    for _ in range(4):
        shown.page.keyboard.press("ArrowRight")
        seen.append(heat(shown))
    assert len(set(seen)) == 5
    assert slider.locator("..").inner_text().endswith("3")
    shown.screenshot(tmp_path / "layer.png")
    shown.page.keyboard.press("Home")
    assert heat(shown) == seen[0]
