"""The workflow personalize_and_caption, run with few steps: captions, training, new images."""

from __future__ import annotations

import shutil

import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from PIL import Image

from .conftest import image_files

WORKFLOW = ROOT / "workflows" / "personalize_and_caption.json"
FEW = {
    "PriorGenerator": {"count": 2, "steps": 2},
    "DreamBoothTrain": {"steps": 4, "run_name": "story"},
    "CFGSampler": {"steps": 2},
    "GroundedCaption": {"max_new_tokens": 12},
}


@pytest.fixture(scope="module")
def graph(server: ComfyUI) -> dict:
    """The workflow as comfy-cli sends it."""
    return as_sent(server, WORKFLOW)


@pytest.fixture(scope="module")
def outcome(server: ComfyUI, client: Client, graph: dict) -> Outcome:
    for image in (ROOT / "sandbox" / "subject").glob("*.png"):
        shutil.copy(image, server.input)
    for node in graph.values():
        node["inputs"] |= FEW.get(node["class_type"], {})
    return client.run(graph)


def titled(graph: dict, title: str) -> str:
    return next(name for name, node in graph.items() if node["_meta"]["title"] == title)


def test_the_workflow_runs_to_its_end(outcome: Outcome) -> None:
    assert outcome.failure is None


def test_every_image_is_saved_and_captioned(outcome: Outcome, graph: dict, server: ComfyUI) -> None:
    for who in ("subject", "class"):
        files = image_files(server, outcome, titled(graph, f"Images of the {who}"))
        prompts = outcome.outputs[titled(graph, f"Prompts of the {who}")]["text"]
        captions = outcome.outputs[titled(graph, f"Captions of the generated {who}")]["text"]
        assert len(files) == len(prompts) == len(captions) == 4
        for file in files:
            assert file.is_relative_to(server.output)
            with Image.open(file) as image:
                assert image.size == (128, 128)


def test_training_captions_contain_the_trigger_word(outcome: Outcome, graph: dict) -> None:
    captions = outcome.outputs[titled(graph, "Training captions")]["text"]
    assert len(captions) == 4
    assert all("sks dog" in caption for caption in captions)


def test_training_shows_progress_loss_and_previews(outcome: Outcome, graph: dict) -> None:
    node = titled(graph, "Train on the subject")
    assert [step.done for step in outcome.steps if step.node == node][-1] == 4
    assert any("loss" in text for where, text in outcome.texts if where == node)
    assert any(preview.node == node for preview in outcome.previews)


def test_core_plots_the_loss(outcome: Outcome, graph: dict) -> None:
    assert outcome.outputs[titled(graph, "Loss")]["images"]
