"""What was saved once opens and means the same: every workflow, now and as it was released.

`held/` is the last release as people have it on disk: its workflows, and the values that its
widgets took. `python tests/host/write_promises.py` writes it when a version is released.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import lay_out
from kosmos_dreambooth.dev.demo.server_client import Client

from tests.host.saved import NOTES, fields, is_allowed, values

HELD = Path(__file__).with_name("held")
WORKFLOWS = [*sorted((ROOT / "workflows").glob("*.json")), *sorted(HELD.glob("workflows/*.json"))]
VALUES = json.loads((HELD / "values.json").read_text(encoding="utf-8"))

# A run is made by the workflow itself, and the node accepts names that are not listed yet.
FREE = {("LoadTrainingRun", "run")}

every_workflow = pytest.mark.parametrize(
    "file", WORKFLOWS, ids=lambda file: f"{'held ' * (HELD in file.parents)}{file.stem}"
)


@pytest.fixture(scope="module")
def known(server: ComfyUI, client: Client) -> dict[str, Any]:
    lay_out(server.input)
    return client.nodes()


def nodes_of(file: Path) -> list[dict[str, Any]]:
    graph = json.loads(file.read_text(encoding="utf-8"))
    return [node for node in graph["nodes"] if node["type"] not in NOTES]


@every_workflow
def test_its_widgets_take_the_values_that_were_saved(known: dict[str, Any], file: Path) -> None:
    for node in nodes_of(file):
        for field, value in values(node, known[node["type"]]):
            if (node["type"], field.name) not in FREE:
                assert is_allowed(field, value), f"{node['title']}: {field.name} = {value!r}"


@every_workflow
def test_its_inputs_and_outputs_are_still_there(known: dict[str, Any], file: Path) -> None:
    for node in nodes_of(file):
        schema = known[node["type"]]
        there = {field.name: field.kind for field in fields(schema)}
        for slot in node["inputs"]:
            assert there[slot["name"]] == slot["type"], f"{node['title']}: {slot['name']}"
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        for field in fields(schema):
            if field.name in schema["input"]["required"] and not field.is_widget:
                assert field.name in linked, f"{node['title']} lacks {field.name}"
        given = [output["type"] for output in node["outputs"]]
        assert schema["output"][: len(given)] == given, node["title"]


@every_workflow
def test_its_links_join_what_fits(file: Path) -> None:
    graph = json.loads(file.read_text(encoding="utf-8"))
    by_id = {node["id"]: node for node in graph["nodes"]}
    for link, source, output, target, slot, kind in graph["links"]:
        given, taken = by_id[source]["outputs"][output], by_id[target]["inputs"][slot]
        assert link in given["links"]
        assert link == taken["link"]
        assert kind == given["type"]
        assert {kind, "*"} & set(taken["type"].split(","))


@pytest.mark.parametrize("node", VALUES)
def test_no_value_that_a_release_took_is_refused(known: dict[str, Any], node: str) -> None:
    now = {field.name: field for field in fields(known[node])}
    for name, held in VALUES[node].items():
        for value in held if (node, name) not in FREE else ():
            assert is_allowed(now[name], value), f"{node}.{name} = {value!r}"
