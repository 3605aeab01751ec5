"""CompareEmbeddings in the browser: the pair that is pointed at, or reached by keys, is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image

TEXTS = ["a red dog", "a blue boat", "a cup"]


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    for k in range(2):
        picture = Image.fromarray(draw_sample(HELD_OUT + k, 64).pixels)
        picture.save(tab.server.input / f"compared_{k}.png")
    tab.build(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "compared_0.png"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "compared_1.png"}},
            "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
            "4": {
                "class_type": "LoadKosmos",
                "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
            },
            "5": {
                "class_type": "EmbedImageText",
                "inputs": {
                    "method": "likelihood",
                    "text": "\n".join(TEXTS),
                    "prompt": "",
                    "dual_encoder": "none",
                    "batch_size": 0,
                    "kosmos": ["4", 0],
                    "image": ["3", 0],
                },
            },
            "6": {
                "class_type": "CompareEmbeddings",
                "inputs": {"rows": ["5", 1], "columns": ["5", 0], "top": 2},
            },
            "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 4]}},
        }
    )
    tab.run("CompareEmbeddings", ".kd-cells")
    return tab


def told(tab: Tab) -> list[str]:
    return tab.page.locator(".kd-told span").all_inner_texts()


def test_the_pair_below_the_pointer_is_told(shown: Tab, tmp_path: Path) -> None:
    cells = shown.page.locator(".kd-cells")
    box = cells.bounding_box()
    assert box is not None
    place = {"x": box["width"] * 0.75, "y": box["height"] * 0.9}
    shown.page.mouse.move(box["x"] + place["x"], box["y"] + place["y"])
    assert told(shown) == [TEXTS[2], "image 2"]
    assert "rank 1 of 2" in shown.page.inner_text(".kd-told output")
    assert shown.page.locator(".kd-pair svg image").count() == 1
    shown.screenshot(tmp_path / "matrix.png")
    assert shown.errors == []


def test_pairs_are_reached_by_keys(shown: Tab) -> None:
    shown.page.locator(".kd-matrix").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        shown.page.keyboard.press(key)
    assert told(shown) == [TEXTS[0], "image 1"]
    shown.page.keyboard.press("ArrowDown")
    assert told(shown) == [TEXTS[1], "image 1"]


def test_it_is_there_again_after_a_reload(shown: Tab) -> None:
    shown.reopen("CompareEmbeddings", ".kd-cells")
    assert told(shown) == [TEXTS[0], "image 1"]
    assert shown.errors == []
