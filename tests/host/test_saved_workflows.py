"""Saved workflows open with the same meaning: those of today and those of the last release.

`last_release/` has the workflows of the last release, and the values that its widgets took.
`python tests/host/write_promises.py` writes it when a version is released.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs
from kosmos_dreambooth.dev.demo.run_workflows import models_of, newer_comfyui
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_blueprints import FOLDER, INPUT_NODE, OUTPUT_NODE, graphs

from tests.host.node_schema import NOTES, fields, is_allowed, widget_values

LAST_RELEASE = Path(__file__).with_name("last_release")
WORKFLOWS = [
    *sorted((ROOT / "workflows").glob("*.json")),
    *sorted(LAST_RELEASE.glob("workflows/*.json")),
]
VALUES = json.loads((LAST_RELEASE / "values.json").read_text(encoding="utf-8"))

# A run is made by the workflow itself, and the node accepts names that are not listed yet.
FREE = {("LoadTrainingRun", "run")}

every_workflow = pytest.mark.parametrize(
    "file",
    WORKFLOWS,
    ids=lambda file: f"{'last release ' * (LAST_RELEASE in file.parents)}{file.stem}",
)


@pytest.fixture(scope="module")
def known(server: ComfyUI, client: Client) -> dict[str, Any]:
    copy_inputs(server.input)
    return client.nodes()


def nodes_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a workflow and of its subgraphs, without those that stand for a subgraph."""
    levels = graphs(workflow)
    others = {*NOTES, *(level.get("id") for level in levels)}
    return [node for level in levels for node in level["nodes"] if node["type"] not in others]


@pytest.fixture
def nodes(client: Client, known: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """The nodes of a workflow, all of which this ComfyUI knows; skip one for newer ones."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    unknown = {node["type"] for node in nodes_of(workflow)} - set(known)
    if newer := newer_comfyui(workflow, client):
        assert unknown
        pytest.skip(f"needs {newer}, with {', '.join(unknown)}")
    assert not unknown
    return nodes_of(workflow)


@every_workflow
def test_widgets_take_the_saved_values(known: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        models = {model["name"] for model in models_of(node)}  # which tests do not have
        for field, value in widget_values(node, known[node["type"]]):
            if (node["type"], field.name) not in FREE and value not in models:
                assert is_allowed(field, value), f"{node['title']}: {field.name} = {value!r}"


@every_workflow
def test_saved_inputs_and_outputs_exist(known: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        schema = known[node["type"]]
        types = {field.name: field.kind for field in fields(schema)}
        for slot in node["inputs"]:
            takes = set(types[slot["name"]].split(","))
            assert takes >= set(slot["type"].split(",")), f"{node['title']}: {slot['name']}"
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        for field in fields(schema):
            if field.name in schema["input"]["required"] and not field.is_widget:
                assert field.name in linked, f"{node['title']} lacks {field.name}"
        outputs = [output["type"] for output in node["outputs"]]
        assert schema["output"][: len(outputs)] == outputs, node["title"]


@every_workflow
def test_a_subgraph_s_node_has_its_inputs_and_outputs(file: Path) -> None:
    levels = graphs(json.loads(file.read_text(encoding="utf-8")))
    by_id = {level["id"]: level for level in levels[1:]}
    for node in (node for level in levels for node in level["nodes"] if node["type"] in by_id):
        for side in ("inputs", "outputs"):
            names = [(place["name"], place["type"]) for place in node[side]]
            inside = by_id[node["type"]][side]
            assert names == [(place["name"], place["type"]) for place in inside], node["title"]


SUBGRAPHS = [*sorted((ROOT / "workflows").glob("*.json")), *sorted(FOLDER.glob("*.json"))]


@pytest.mark.parametrize("file", SUBGRAPHS, ids=lambda file: file.stem)
def test_a_promoted_widget_is_where_the_browser_has_it(known: dict[str, Any], file: Path) -> None:
    """The browser finds it by its slot, and lists a node's sockets first, also newer ones."""
    for graph in graphs(json.loads(file.read_text(encoding="utf-8")))[1:]:
        by_id = {node["id"]: node for node in graph["nodes"]}
        for _, source, _, target, slot, _ in graph["links"]:
            node = by_id.get(target, {})
            if source == INPUT_NODE and "widget" in node["inputs"][slot]:
                listed = sorted(fields(known[node["type"]]), key=lambda field: field.is_widget)
                assert node["inputs"][slot]["name"] == listed[slot].name, node["type"]


@every_workflow
def test_links_connect_matching_types(file: Path) -> None:
    for graph in graphs(json.loads(file.read_text(encoding="utf-8"))):
        by_id = {node["id"]: node for node in graph["nodes"]}
        ends = {
            "outputs": [place | {"links": place["linkIds"]} for place in graph.get("inputs", ())],
            "inputs": graph.get("outputs", ()),
        }
        by_id |= {INPUT_NODE: ends, OUTPUT_NODE: ends}
        for link, source, output, target, slot, kind in graph["links"]:
            origin, place = by_id[source]["outputs"][output], by_id[target]["inputs"][slot]
            assert link in origin["links"]
            assert link in place.get("linkIds", [place.get("link")])
            assert kind == origin["type"]
            assert {kind, "*"} & set(place["type"].split(","))


def test_the_app_shows_five_free_widgets_and_what_is_saved() -> None:
    file = ROOT / "workflows" / "teach_a_subject.app.json"
    app = json.loads(file.read_text(encoding="utf-8"))
    assert app["extra"]["linearMode"] is True
    shown = app["extra"]["linearData"]
    by_id = {node["id"]: node for node in app["nodes"]}
    free = {
        (node["id"], place["name"])
        for node in app["nodes"]
        for place in node["inputs"]
        if "widget" in place and place["link"] is None
    }
    assert len({(node, name) for node, name, *_ in shown["inputs"]} & free) == 5
    assert [by_id[node]["type"] for node in shown["outputs"]] == ["SaveImage"]


@pytest.mark.parametrize("node", VALUES)
def test_values_of_the_last_release_are_taken(known: dict[str, Any], node: str) -> None:
    now = {field.name: field for field in fields(known[node])}
    for name, values in VALUES[node].items():
        for value in values if (node, name) not in FREE else ():
            assert is_allowed(now[name], value), f"{node}.{name} = {value!r}"
