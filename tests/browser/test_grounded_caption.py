"""GroundedCaption in the browser: boxes and phrases highlight each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.drawing.boxes import PALETTE

from tests.browser.conftest import build
from tests.host.conftest import Graph, scene

MANY = 64


def caption_graph(server: ComfyUI, count: int = 2) -> Graph:
    caption = {"kosmos": ["kosmos", 0], "image": ["many", 0], "max_new_tokens": 64}
    return (
        Graph()
        .load_images(server.input, scene(0, 64), scene(1, 64), name="browser")
        .add("many", "RepeatImageBatch", image=["images", 0], amount=count // 2)
        .add("kosmos", "LoadKosmos")
        .add("caption", "GroundedCaption", **caption)
    )


@pytest.fixture(scope="module")
def shown(tab: Tab) -> Tab:
    build(tab, caption_graph(tab.server))
    tab.run("GroundedCaption", ".kd-box")
    return tab


def lit(tab: Tab, what: str) -> list[bool]:
    classes = tab.page.eval_on_selector_all(what, "all => all.map((one) => one.classList.value)")
    return ["kd-lit" in name for name in classes]


def caption(tab: Tab) -> str:
    return tab.page.inner_text(".kd-caption")


def test_a_phrase_highlights_its_box_and_a_box_its_phrase(shown: Tab, tmp_path: Path) -> None:
    page = shown.page
    phrases, boxes = page.locator(".kd-phrase"), page.locator(".kd-box")
    assert boxes.count() >= phrases.count() >= 1
    colours = phrases.evaluate_all("all => all.map((p) => p.style.getPropertyValue('--kd-colour'))")
    assert colours == list(PALETTE[: len(colours)])
    assert not any(lit(shown, ".kd-box"))
    picture = page.get_attribute(".kd-stage image", "href")
    assert page.request.get(shown.server.address + picture).headers["content-type"] == "image/jpeg"
    phrases.first.hover()
    shown.screenshot(tmp_path / "hovered.png")
    assert lit(shown, ".kd-phrase")[0]
    assert any(lit(shown, ".kd-box"))
    page.mouse.move(5, 500)
    assert not any(lit(shown, ".kd-box"))
    boxes.last.hover()
    assert any(lit(shown, ".kd-phrase"))
    assert shown.errors == []


def test_keys_reach_the_phrases(shown: Tab) -> None:
    page = shown.page
    page.locator(".kd-phrase").first.focus()
    page.keyboard.press("End")
    assert lit(shown, ".kd-phrase")[-1]
    page.keyboard.press("Home")
    assert lit(shown, ".kd-phrase")[0]
    assert page.evaluate("() => app.graph.nodes.length") == len(caption_graph(shown.server))


def test_tab_moves_the_focus_and_enter_presses(shown: Tab) -> None:
    page = shown.page
    page.locator(".kd-phrase").first.focus()
    focused = "() => document.activeElement.ariaLabel || document.activeElement.textContent"
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
    assert reached == ["Copy caption", "Previous image", "Image of the batch", "Next image"]
    page.keyboard.press("Enter")
    assert page.inner_text(".kd-pager output") == "2 / 2"
    page.keyboard.press("Enter")
    assert page.inner_text(".kd-pager output") == "1 / 2"


def test_dragging_in_the_panel_does_not_move_the_node(shown: Tab) -> None:
    place = "() => [...app.graph.nodes.find((node) => node.type === 'GroundedCaption').pos]"
    before = shown.page.evaluate(place)
    slider = shown.page.get_by_label("Image of the batch")
    slider.drag_to(slider, source_position={"x": 6, "y": 6}, target_position={"x": 66, "y": 6})
    assert shown.page.evaluate(place) == before
    assert shown.page.inner_text(".kd-pager output") == "2 / 2"
    slider.drag_to(slider, source_position={"x": 66, "y": 6}, target_position={"x": 6, "y": 6})


def test_text_has_contrast_in_dark_and_light(shown: Tab, tmp_path: Path) -> None:
    words = shown.page.locator(".kd-caption")
    for theme in ("light", "dark"):
        shown.setting("Comfy.ColorPalette", theme)
        shown.page.mouse.move(5, 500)
        shown.page.wait_for_timeout(500)  # colours fade over
        shown.screenshot(tmp_path / f"{theme}.png")
        assert shown.contrast(words) > 4.5, theme


def test_the_batch_is_stepped_through_and_the_caption_copied(shown: Tab) -> None:
    page = shown.page
    first = caption(shown)
    page.get_by_label("Next image").click()
    assert page.inner_text(".kd-pager output") == "2 / 2"
    assert caption(shown) != first
    page.get_by_text("Copy caption").click()
    page.wait_for_selector("text=Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == caption(shown)
    page.get_by_label("Previous image").click()
    assert caption(shown) == first


def test_the_caption_is_copied_where_the_page_has_no_clipboard(shown: Tab) -> None:
    page = shown.page
    page.get_by_text("Copy caption").wait_for()
    page.evaluate(
        """async () => {
            window.clipboard = navigator.clipboard;
            await clipboard.writeText('');
            Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true });
        }"""
    )
    page.get_by_text("Copy caption").click()
    page.wait_for_selector("text=Copied")
    assert page.evaluate("() => clipboard.readText()") == caption(shown)


def test_the_panel_is_restored_after_a_reload(shown: Tab) -> None:
    first = caption(shown)
    shown.reopen("GroundedCaption", ".kd-box")
    assert caption(shown) == first
    assert shown.errors == []


def test_a_batch_of_64_shows_one_image_at_a_time(shown: Tab) -> None:
    build(shown, caption_graph(shown.server, MANY))
    page = shown.page
    page.wait_for_selector(".kd-box", state="detached")
    shown.run("GroundedCaption", ".kd-box")
    page.get_by_label("Image of the batch").focus()
    page.keyboard.press("End")
    assert page.inner_text(".kd-pager output") == f"{MANY} / {MANY}"
    assert page.locator(".kd-stage image").count() == 1
    assert shown.errors == []


def test_the_panel_is_not_saved_in_workflows(shown: Tab) -> None:
    find = "app.graph.nodes.find((node) => node.type === 'GroundedCaption').serialize()"
    values = shown.page.evaluate(f"() => {find}.widgets_values")
    schema = shown.page.evaluate(
        "() => app.graph.nodes.find((node) => node.type === 'GroundedCaption')"
        ".widgets.filter((widget) => widget.type !== 'kosmos').length"
    )
    assert len(values) == schema
