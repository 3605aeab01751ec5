"""Write `subgraphs/`: parts of the saved workflows that ComfyUI offers as single nodes.

A blueprint has the nodes of a workflow with their settings; links to other nodes and chosen widgets
become the inputs of the subgraph's node.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from .comfyui_server import ROOT

FOLDER = ROOT / "subgraphs"
CATEGORY = "Kosmos DreamBooth"
SUBGRAPH_NODE, INPUT_NODE, OUTPUT_NODE = 1, -10, -20
NAMESPACE = uuid.UUID("6f1d7c1e-3f3c-4f0e-9d0b-2f9f1b0a7c55")
COLUMN = 420
"""Pixels from one node inside of the subgraph to the next."""

ENDS = ("origin_id", "origin_slot", "target_id", "target_slot", "type")

Slot = tuple[int, str]
"""Id of a node in the workflow, and the name of one of its inputs or outputs."""


@dataclass(frozen=True)
class Blueprint:
    """What is cut out of a workflow: nodes, and what the subgraph's node shows of them.

    An input may feed several nodes. `values` are widget values other than the workflow's, by node
    and position.
    """

    name: str
    description: str
    workflow: str
    nodes: tuple[int, ...]
    inputs: dict[str, tuple[Slot, ...]]
    outputs: dict[str, Slot]
    values: dict[int, dict[int, Any]] = field(default_factory=dict)


BLUEPRINTS = (
    Blueprint(
        "Caption with boxes",
        "Captions every image with Kosmos-2, and returns a box for each thing that is named.",
        "caption_a_folder",
        (3, 7),
        {"image": ((7, "image"),), "model": ((3, "model"),), "style": ((7, "style"),)},
        {name: (7, name) for name in ("captions", "grounding", "annotated", "mask", "json")},
    ),
    Blueprint(
        "Find and mask",
        "Finds what phrases name in every image, and makes a mask of the boxes.",
        "find_and_mask_by_phrase",
        (3, 4, 7),
        {
            "image": ((4, "image"), (7, "image")),
            "phrases": ((4, "phrases"),),
            "model": ((3, "model"),),
            "padding": ((7, "padding"),),
        },
        {
            "mask": (7, "mask"),
            "annotated": (4, "annotated"),
            "grounding": (4, "grounding"),
            "missing": (4, "missing"),
        },
        {7: {0: "all", 1: ""}},
    ),
    Blueprint(
        "Teach a subject",
        "Trains a LoRA of one subject (DreamBooth) on three to five images, captioned by Kosmos-2.",
        "teach_a_subject.app",
        (5, 6, 7, 8, 10, 12),
        {
            "image": ((6, "image"), (7, "image")),
            "token": ((7, "token"),),
            "class_name": ((7, "class_name"),),
            "class_prompt": ((10, "prompt"),),
            "model": ((8, "model"),),
            "steps": ((12, "steps"),),
            "run_name": ((12, "run_name"),),
        },
        {
            "trained": (12, "trained"),
            "lora": (12, "lora"),
            "sheet": (7, "sheet"),
            "report": (7, "report"),
            "training": (12, "run"),
        },
        {12: {8: "sks_dog", 10: "a sks dog in the snow"}},
    ),
    Blueprint(
        "Paint the subject",
        "Generates images of a trained subject, from a training or the name of a finished run.",
        "choose_the_best_checkpoint",
        (20, 23),
        {
            "training": ((20, "training"),),
            "run": ((20, "run"),),
            "prompt": ((23, "prompt"),),
            "seed": ((23, "seed"),),
            "count": ((23, "count"),),
        },
        {"image": (23, "image"), "prompts": (23, "prompts"), "report": (20, "report")},
        {20: {1: "newest"}},
    ),
)


def main() -> None:
    """Write all blueprints."""
    FOLDER.mkdir(exist_ok=True)
    for blueprint in BLUEPRINTS:
        text = json.dumps(subgraph_workflow(blueprint), indent=2) + "\n"
        (FOLDER / f"{blueprint.name}.json").write_text(text, encoding="utf-8")


def graphs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a saved workflow's graph and those of its subgraphs, with nodes and links.

    A link is `[id, origin id, origin slot, target id, target slot, type]` in each of them.
    """
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    return [workflow] + [
        graph | {"links": [[link["id"], *(link[end] for end in ENDS)] for link in graph["links"]]}
        for graph in subgraphs
    ]


def subgraph_workflow(blueprint: Blueprint) -> dict[str, Any]:
    """Return a workflow (UI format) with one node, the subgraph's, and its definition."""
    file = ROOT / "workflows" / f"{blueprint.workflow}.json"
    workflow = json.loads(file.read_text(encoding="utf-8"))
    for graph in graphs(workflow):
        nodes = {node["id"]: node for node in graph["nodes"] if node["id"] in blueprint.nodes}
        if nodes:
            break
    links = [tuple(link[1:]) for link in graph["links"] if {link[1], link[3]} <= {*nodes}]
    inputs, outputs = [], []
    for index, (name, targets) in enumerate(blueprint.inputs.items()):
        slots = [(node, _index(nodes[node]["inputs"], slot)) for node, slot in targets]
        shown = nodes[slots[0][0]]["inputs"][slots[0][1]]
        links += [(INPUT_NODE, index, *slot, shown["type"]) for slot in slots]
        widget = {"widget": {"name": name}} if "widget" in shown else {}
        inputs.append({"name": name, "type": shown["type"]} | widget)
    for index, (name, (node, slot)) in enumerate(blueprint.outputs.items()):
        output = _index(nodes[node]["outputs"], slot)
        kind = nodes[node]["outputs"][output]["type"]
        links.append((node, output, OUTPUT_NODE, index, kind))
        outputs.append({"name": name, "type": kind})
    for order, node in enumerate(nodes.values()):
        node |= {"pos": [COLUMN * order, 0], "flags": {}, "order": order}
        node.pop("title", None)  # "Masks of the cats" need not hold here
        for index, place in enumerate(node["inputs"]):
            place["link"] = next(iter(_links_at(links, "target", node["id"], index)), None)
        for index, place in enumerate(node["outputs"]):
            place["links"] = _links_at(links, "origin", node["id"], index)
        for position, value in blueprint.values.get(node["id"], {}).items():
            node["widgets_values"][position] = value
    definition = str(uuid.uuid5(NAMESPACE, blueprint.name))
    subgraph = {
        "id": definition,
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": max(nodes),
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "description": blueprint.description,
        "category": CATEGORY,
        "inputNode": {"id": INPUT_NODE, "bounding": [-COLUMN, 0, 120, 200]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [COLUMN * len(nodes), 0, 120, 200]},
        "inputs": [
            {"id": _slot_id(blueprint, "input", place["name"])}
            | {"name": place["name"], "type": place["type"]}
            | {"linkIds": _links_at(links, "origin", INPUT_NODE, index)}
            for index, place in enumerate(inputs)
        ],
        "outputs": [
            {"id": _slot_id(blueprint, "output", place["name"])}
            | place
            | {"linkIds": _links_at(links, "target", OUTPUT_NODE, index)}
            for index, place in enumerate(outputs)
        ],
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": [
            dict(zip(ENDS, link, strict=True)) | {"id": number}
            for number, link in enumerate(links, 1)
        ],
        "extra": {},
    }
    shown_node = {
        "id": SUBGRAPH_NODE,
        "type": definition,
        "pos": [0, 0],
        "size": [340, 260],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [place | {"link": None} for place in inputs],
        "outputs": [place | {"links": []} for place in outputs],
        "title": blueprint.name,
        "properties": {},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": max(nodes),
        "last_link_id": 0,
        "nodes": [shown_node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {},
    }


def _index(places: list[dict[str, Any]], name: str) -> int:
    return [place["name"] for place in places].index(name)


def _links_at(links: list[tuple[Any, ...]], end: str, node: int, slot: int) -> list[int]:
    """The numbers, from 1, of the links with this origin or target."""
    place = (node, slot)
    ends = [(link[:2] if end == "origin" else link[2:4]) for link in links]
    return [number for number, at in enumerate(ends, 1) if at == place]


def _slot_id(blueprint: Blueprint, end: str, name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{blueprint.name}/{end}/{name}"))
