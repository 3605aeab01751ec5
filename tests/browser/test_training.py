"""DreamBoothTrain in the browser: a panel that is alive, and outlives the page and the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.demo.comfyui import ROOT, ComfyUI
from PIL import Image

from tests.browser.conftest import Tab

STEPS = 400


@pytest.fixture
def running(tab: Tab, server: ComfyUI, request: pytest.FixtureRequest) -> Tab:
    """A run that has just begun, and was never seen before."""
    with Image.open(ROOT / "sandbox" / "subject" / "sks_dog_1.png") as picture:
        picture.save(server.input / "trained.png")
    settings = {
        "diffusion": ["1", 0],
        "subject": ["3", 0],
        "method": "lora",
        "train_text_encoder": False,
        "steps": STEPS,
        "learning_rate": 0.0,
        "rank": 2,
        "prior_weight": 1.0,
        "batch_size": 1,
        "seed": 0,
        "run_name": request.node.name,
        "resume": True,
        "preview_prompt": "",
    }
    tab.build(
        {
            "1": {"class_type": "LoadDiffusion", "inputs": {"model": "sandbox", "dtype": "auto"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "trained.png"}},
            "3": {
                "class_type": "SubjectDataset",
                "inputs": {"image": ["2", 0], "token": "sks", "class_name": "dog"},
            },
            "4": {"class_type": "DreamBoothTrain", "inputs": settings},
        }
    )
    tab.queue()
    tab.page.wait_for_selector(".kd-smooth")
    tab.frame("DreamBoothTrain")
    return tab


def where(tab: Tab) -> str:
    return tab.page.inner_text(".kd-where")


def test_it_is_alive_and_there_again_after_a_reload_in_the_middle(
    running: Tab, tmp_path: Path
) -> None:
    page = running.page
    page.wait_for_selector("dt:text('time left')")
    page.wait_for_function("() => document.querySelector('.kd-sample')?.naturalWidth > 0")
    running.picture(tmp_path / "alive.png")
    assert {"loss", "learning rate", "speed"} <= set(page.locator(".kd-facts dt").all_inner_texts())
    running.reopen()
    page.wait_for_selector(".kd-smooth")
    page.wait_for_function("() => document.querySelector('.kd-where').textContent.includes('fin')")
    assert where(running).endswith(f"step {STEPS} of {STEPS}, finished")
    running.reopen()
    page.wait_for_selector(".kd-smooth")
    running.frame("DreamBoothTrain")
    running.picture(tmp_path / "finished.png")
    assert where(running).endswith(f"step {STEPS} of {STEPS}, finished")
    assert running.errors == []


def test_a_cancelled_run_keeps_its_curve(running: Tab) -> None:
    page = running.page
    page.evaluate("() => app.api.interrupt()")
    page.wait_for_function("() => document.querySelector('.kd-where').textContent.includes('stop')")
    stopped = where(running)
    running.reopen()
    page.wait_for_selector(".kd-smooth")
    assert where(running) == stopped
