"""A saved node is as high as it gets in a run: no panel, preview or text grows over others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_blueprints import INPUT_NODE, graphs

from tests.host.node_schema import NOTES, Field, Schema, fields

SOCKET, WIDGET, TEXT_FIELD, EDGES = 20, 24, 50, 6
"""Heights in the classic frontend, which grows a node until its widgets fit."""
TEXT, PREVIEW = 58, 220
"""Heights of the widgets that it adds for a running node's text and images."""
OPENING = 16
"""What a panel adds to its height when it opens: the spacing that a new node has."""

WITH_TEXT = {
    "AskImage",
    "AttentionMap",
    "CaptionFolder",
    "DreamBoothTrain",
    "EvaluateSubject",
    "FineTuneCaptions",
    "ResumeTraining",
    "SaveCaptions",
    "SubjectDataset",
    "TextualInversionTrain",
}
"""Types of nodes that always show a text."""
WITH_PREVIEW = {
    "CFGSampler",
    "DreamBoothTrain",
    "EvaluateSubject",
    "FineTuneCaptions",
    "LoadImage",
    "MaskPreview",
    "PreviewImage",
    "PriorGenerator",
    "ResumeTraining",
    "SaveImage",
    "TextualInversionTrain",
}

SCRIPT = (ROOT / "web" / "kosmos_dreambooth.js").read_text(encoding="utf-8")
PANELS = {
    name: int(height)
    for name, height in re.findall(r"(\w+)(?:: | = )\{ key: .*height: (\d+)", SCRIPT)
}
PANELS |= dict.fromkeys(re.findall(r"(\w+): TRAINING", SCRIPT), PANELS["TRAINING"])


def widget_heights(field: Field) -> Iterator[int]:
    """The heights of a field's widgets: its own, and the one that the browser adds."""
    yield TEXT_FIELD if field.options.get("multiline") else WIDGET
    if field.options.get("control_after_generate") or field.options.get("image_upload"):
        yield WIDGET


def promoted(graph: dict[str, Any], name: str, schemas: dict[str, Schema]) -> Field:
    """The field of an inner node that a subgraph's input of this name sets."""
    place = [place["name"] for place in graph["inputs"]].index(name)
    target, slot = next(
        (link[3], link[4]) for link in graph["links"] if link[1:3] == [INPUT_NODE, place]
    )
    node = next(node for node in graph["nodes"] if node["id"] == target)
    by_name = {field.name: field for field in fields(schemas[node["type"]])}
    return by_name[node["inputs"][slot]["name"]]


def needed_height(
    node: dict[str, Any], schemas: dict[str, Schema], subgraphs: dict[str, dict[str, Any]]
) -> int:
    """The height of a node with all inputs of its schema, after a run."""
    kind = node["type"]
    if kind in subgraphs:
        graph = subgraphs[kind]
        widgets = [promoted(graph, i["name"], schemas) for i in node["inputs"] if "widget" in i]
        rows = max(len(node["inputs"]) - len(widgets), len(node["outputs"]))
        preview = any(inner["type"] in WITH_PREVIEW for inner in graph["nodes"])
    else:
        inputs, preview = fields(schemas[kind]), kind in WITH_PREVIEW
        widgets = [field for field in inputs if field.is_widget]
        rows = max(len(inputs) - len(widgets), len(schemas[kind]["output"]))
    heights = [height for field in widgets for height in widget_heights(field)]
    fields_end = EDGES + SOCKET * rows + sum(heights)
    panel, shown = PANELS.get(kind, 0), TEXT * (kind in WITH_TEXT) + PREVIEW * preview
    return fields_end + panel + max(shown, OPENING * (panel > 0))


@pytest.mark.parametrize(
    "file", sorted((ROOT / "workflows").glob("*.json")), ids=lambda file: file.stem
)
def test_saved_heights_have_room_for_panels_text_and_previews(client: Client, file: Path) -> None:
    schemas = client.nodes()
    workflow, *inside = graphs(json.loads(file.read_text(encoding="utf-8")))
    subgraphs = {graph["id"]: graph for graph in inside}
    too_low = {
        node["title"]: needed
        for node in workflow["nodes"]
        if node["type"] not in NOTES and not node["flags"].get("collapsed")
        if node["type"] in {*schemas, *subgraphs}  # of a newer ComfyUI
        if node["size"][1] < (needed := needed_height(node, schemas, subgraphs))
    }
    assert too_low == {}, "heights that are needed, by title"
