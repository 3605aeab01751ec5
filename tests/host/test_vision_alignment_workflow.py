"""The workflow vision_alignment, run with few steps: attention maps, image search, patches."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome

WORKFLOW = ROOT / "workflows" / "vision_alignment.json"


@pytest.fixture(scope="module")
def graph(server: ComfyUI) -> dict:
    """The workflow as comfy-cli sends it."""
    return as_sent(server, WORKFLOW)


@pytest.fixture(scope="module")
def outcome(client: Client, graph: dict) -> Outcome:
    for node in graph.values():
        if node["class_type"] == "CFGSampler":
            node["inputs"]["steps"] = 4
    return client.run(graph)


def shown_by(graph: dict, outcome: Outcome, title: str) -> dict:
    assert outcome.failure is None, outcome.failure
    name = next(name for name, node in graph.items() if node["_meta"]["title"] == title)
    return outcome.outputs[name]


def test_each_word_of_the_caption_has_a_map(outcome: Outcome, graph: dict) -> None:
    [caption] = shown_by(graph, outcome, "Its caption")["text"]
    words = shown_by(graph, outcome, "The words")["text"]
    assert len(shown_by(graph, outcome, "Attention maps")["images"]) == len(words)
    assert all(word in caption for word in words)
    [raw] = shown_by(graph, outcome, "Attention of each word")["attention"]
    assert [word["word"] for word in raw["words"]] == words


def test_each_text_finds_an_image(outcome: Outcome, graph: dict) -> None:
    ranking = shown_by(graph, outcome, "Ranking")["text"]
    assert len(ranking) == len(shown_by(graph, outcome, "Images found by text")["images"]) == 4
    assert len(shown_by(graph, outcome, "Similarity matrix")["images"]) == 1


def test_the_patches_are_shown(outcome: Outcome, graph: dict) -> None:
    for title in ("Similarity to the phrase", "Patch features in colours"):
        assert len(shown_by(graph, outcome, title)["images"]) == 6
