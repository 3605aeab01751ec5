"""DreamBoothTrain in the browser: the panel updates, and is restored after a reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.browser_tab import Tab
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from PIL import Image

from tests.browser.conftest import FIRST_AND_LAST, build
from tests.host.conftest import Graph

STEPS = 400
LONG_MS = 300_000

pytestmark = pytest.mark.parametrize("tab", FIRST_AND_LAST, indirect=True)


def train_graph(server: ComfyUI, run_name: str, **settings: object) -> Graph:
    """A short training on one image."""
    inputs = {"diffusion": ["load", 0], "subject": ["subject", 0], "train_text_encoder": False}
    inputs |= {"steps": STEPS, "rank": 2, "prior_weight": 1.0, "batch_size": 1}
    with Image.open(ROOT / "sandbox" / "subject" / "sks_dog_1.png") as image:
        graph = Graph().load_images(server.input, image, name="trained")
    return (
        graph.add("load", "LoadDiffusion")
        .add("subject", "SubjectDataset", image=["images", 0])
        .add("train", "DreamBoothTrain", **{**inputs, "run_name": run_name, **settings})
    )


@pytest.fixture
def running(tab: Tab, request: pytest.FixtureRequest) -> Tab:
    """A run that has just begun."""
    build(tab, train_graph(tab.server, request.function.__name__))
    tab.run("DreamBoothTrain", ".kd-smooth")
    return tab


def where(tab: Tab) -> str:
    return tab.page.inner_text(".kd-where")


def test_the_panel_updates_and_is_restored_during_a_run(running: Tab, tmp_path: Path) -> None:
    page = running.page
    page.wait_for_selector("dt:text('time left')")
    page.wait_for_function("() => document.querySelector('.kd-sample')?.naturalWidth > 0")
    running.screenshot(tmp_path / "alive.png")
    assert {"loss", "learning rate", "speed"} <= set(page.locator(".kd-facts dt").all_inner_texts())
    running.reopen("DreamBoothTrain", ".kd-smooth")
    page.wait_for_function(
        "() => document.querySelector('.kd-where').textContent.includes('fin')", timeout=LONG_MS
    )
    assert where(running).endswith(f"step {STEPS} of {STEPS}, finished")
    running.reopen("DreamBoothTrain", ".kd-smooth")
    running.screenshot(tmp_path / "finished.png")
    assert where(running).endswith(f"step {STEPS} of {STEPS}, finished")
    assert running.errors == []


def test_a_cancelled_run_keeps_its_loss_curve(running: Tab) -> None:
    page = running.page
    page.evaluate("() => app.api.interrupt()")
    page.wait_for_function("() => document.querySelector('.kd-where').textContent.includes('stop')")
    stopped = where(running)
    running.reopen("DreamBoothTrain", ".kd-smooth")
    assert where(running) == stopped


def test_scores_of_checkpoints_stay_with_the_run(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    score = {"run": ["train", 4], "prompts": "a {subject}", "count": 1, "steps": 2}
    graph = (
        train_graph(tab.server, "scored", steps=10, options=["options", 0], publish=False)
        .add("options", "TrainingOptions", checkpoint_every=5, keep_checkpoints=2)
        .add("score", "EvaluateSubject", **score)
    )
    build(tab, graph)
    tab.run("DreamBoothTrain", ".kd-checkpoints th:text('overall')")
    tab.screenshot(tmp_path / "scored.png")
    panel = page.locator(".kd-checkpoints", has_text="overall").first
    rows = [row.split() for row in panel.inner_text().splitlines()]
    assert rows[0][0] == "checkpoint"
    assert rows[0][-1] == "overall"
    overall = {row[-6]: float(row[-1]) for row in rows[1:]}
    assert set(overall) == {"5", "10"}
    [best] = [row for row in rows if row[0] == "★"]
    assert float(best[-1]) == max(overall.values())
    told = panel.inner_text()
    tab.reopen("DreamBoothTrain", ".kd-checkpoints th:text('overall')")
    assert page.locator(".kd-checkpoints").first.inner_text() == told
    tab.frame("EvaluateSubject")
    tab.screenshot(tmp_path / "evaluated.png")
    assert tab.errors == []
