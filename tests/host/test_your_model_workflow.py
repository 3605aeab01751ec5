"""The workflow teach_a_subject_to_your_model: core's loaders, training, KSampler, and scores.

The model's weights are not here: with them absent the prompt is refused for their names alone, and
with a small model in place of the loaders it runs to its end.
"""

from __future__ import annotations

import json
import re

import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs
from kosmos_dreambooth.dev.demo.run_workflows import missing_models, models_of
from kosmos_dreambooth.dev.demo.server_client import Client

from .conftest import TINY_MODEL, Graph, images

WORKFLOW = ROOT / "workflows" / "teach_a_subject_to_your_model.json"
SAVED = json.loads(WORKFLOW.read_text(encoding="utf-8"))
MODELS = [model for node in SAVED["nodes"] for model in models_of(node)]
LOADERS = ("UNETLoader", "CLIPLoader", "VAELoader")
FEW = {
    "PriorGenerator": {"count": 2, "steps": 2, "resolution": 64},
    "TrainingOptions": {"checkpoint_every": 2, "preview_every": 2},
    "DreamBoothTrain": {"steps": 4, "rank": 2, "resolution": 64},
    "EmptySD3LatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
    "EvaluateSubject": {
        "subject_judge": "sandbox",
        "prompt_judge": "sandbox",
        "prompts": "a {subject}",
        "count": 2,
        "steps": 1,
    },
}


@pytest.fixture
def graph(server: ComfyUI) -> Graph:
    """The workflow in the API format."""
    copy_inputs(server.input)
    return Graph(as_sent(server, WORKFLOW))


def test_the_note_says_where_the_weights_are() -> None:
    [note] = [node["widgets_values"][0] for node in SAVED["nodes"] if "Note" in node["type"]]
    assert len(MODELS) == len(LOADERS)
    for model in MODELS:
        assert f"[{model['name']}]({model['url']}) in `models/{model['directory']}/`" in note


def test_the_note_names_types_that_load_clip_has(client: Client) -> None:
    [note] = [node["widgets_values"][0] for node in SAVED["nodes"] if "Note" in node["type"]]
    rows = [row for row in note.splitlines() if row.startswith("| ") and "newer ComfyUI" not in row]
    named = {kind for row in rows for kind in re.findall(r"`(\w+)`", row.split("|")[2])}
    nodes = client.nodes()
    types = [nodes[node]["input"]["required"]["type"] for node in ("CLIPLoader", "DualCLIPLoader")]
    assert named
    assert named <= {choice for kind in types for choice in kind[0]}


def test_without_the_weights_only_their_names_are_refused(client: Client, graph: Graph) -> None:
    assert missing_models(SAVED, client) == ", ".join(model["name"] for model in MODELS)
    [sheet] = [key for key, node in graph.items() if node["_meta"]["title"] == "Training images"]
    del graph[sheet]  # it needs no model, and ComfyUI would run that part
    failure = client.run(graph).failure
    assert failure is not None
    assert failure.node_type in LOADERS
    assert failure.kind == "value_not_in_list"


@pytest.mark.usefixtures("tiny_model")
def test_a_small_model_is_trained_sampled_and_scored(
    server: ComfyUI, client: Client, graph: Graph
) -> None:
    output_of = {
        key: LOADERS.index(node["class_type"])
        for key, node in graph.items()
        if node["class_type"] in LOADERS
    }
    for node in graph.values():
        node["inputs"] |= FEW.get(node["class_type"], {})
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in output_of:
                node["inputs"][name] = ["small", output_of[value[0]]]
    for key in output_of:
        del graph[key]
    graph.add("load", "LoadDiffusion", model=TINY_MODEL)
    graph.add("small", "ToComfyModel", diffusion=["load", 0])
    outcome = graph.outputs(client)
    titles = {node.get("_meta", {}).get("title"): key for key, node in graph.items()}
    assert len(images(server, outcome, titles["Training images"])) == 1
    assert len(images(server, outcome, titles["Images of the subject"])) == 2
    assert len(images(server, outcome, titles["Similarity, prompt, drift, diversity"])) == 1
    published = server.base / "models" / "loras" / "dreambooth" / "sks_dog_your_model.safetensors"
    assert published.is_file()
