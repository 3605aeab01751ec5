"""The blueprints in subgraphs/ are up to date, listed by the server, and run as one node."""

from __future__ import annotations

import json
from pathlib import Path

from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import PACK_NAME, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_blueprints import BLUEPRINTS, FOLDER, subgraph_workflow

from .conftest import images, texts
from .test_example_workflows import FEW

IMAGE = "sks_dog_1.png"


def test_the_files_are_up_to_date() -> None:
    saved = {
        file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FOLDER.glob("*.json")
    }
    assert saved == {one.name: subgraph_workflow(one) for one in BLUEPRINTS}


def test_the_server_lists_them(client: Client) -> None:
    listed = client.get("/global_subgraphs")
    ours = {
        one["name"]: key
        for key, one in listed.items()
        if one["info"]["node_pack"].endswith(PACK_NAME)
    }
    assert set(ours) == {one.name for one in BLUEPRINTS}
    for key in ours.values():
        assert json.loads(client.get(f"/global_subgraphs/{key}")["data"])["definitions"]


def between_core_nodes(workflow: dict) -> dict:
    """The workflow with a LoadImage at the subgraph's image, and a preview at each output."""
    [node] = workflow["nodes"]
    links: list[list] = []

    def link(*ends: object) -> int:
        links.append([len(links) + 1, *ends])
        return len(links)

    for slot, place in enumerate(node["inputs"]):
        if place["type"] == "IMAGE":
            place["link"] = link(101, 0, 1, slot, "IMAGE")
            load = {
                "id": 101,
                "type": "LoadImage",
                "inputs": [],
                "widgets_values": [IMAGE, "image"],
            }
            load["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [place["link"]]}]
            workflow["nodes"].append(load)
    for slot, place in enumerate(node["outputs"]):
        kind, name = (
            ("PreviewImage", "images") if place["type"] == "IMAGE" else ("PreviewAny", "source")
        )
        kind, name = ("MaskPreview", "mask") if place["type"] == "MASK" else (kind, name)
        place["links"] = [link(1, slot, 201 + slot, 0, place["type"])]
        shown = {"name": name, "type": place["type"], "link": place["links"][0]}
        sink = {"id": 201 + slot, "type": kind, "inputs": [shown], "outputs": []}
        workflow["nodes"].append(sink | {"title": place["name"], "widgets_values": []})
    for one in workflow["nodes"]:
        one |= {"pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0, "mode": 0}
        one.setdefault("properties", {})
    return workflow | {"links": links, "last_link_id": len(links), "last_node_id": 300}


def test_they_run_one_after_another(server: ComfyUI, client: Client, tmp_path: Path) -> None:
    copy_inputs(server.input)
    shown = {}
    for blueprint in BLUEPRINTS:
        file = tmp_path / "workflow.json"
        workflow = between_core_nodes(subgraph_workflow(blueprint))
        file.write_text(json.dumps(workflow), encoding="utf-8")
        graph = as_sent(server, file)
        for node in graph.values():
            node["inputs"] |= FEW.get(node["class_type"], {})
            if node["class_type"] == "DreamBoothTrain":
                node["inputs"]["run_name"] = "blueprint"
            if node["class_type"] == "LoadTrainingRun":
                node["inputs"]["run"] = "blueprint"
        outcome = client.run(graph)
        assert outcome.failure is None, (blueprint.name, outcome.failure)
        titles = {node.get("_meta", {}).get("title"): key for key, node in graph.items()}
        for name, (_, output) in blueprint.outputs.items():
            shown[blueprint.name, output] = outcome, titles[name]
    assert "dog" in texts(*shown["Caption with boxes", "captions"])[0]
    assert len(images(server, *shown["Find and mask", "annotated"])) == 1
    assert len(images(server, *shown["Teach a subject", "sheet"])) == 1
    assert len(images(server, *shown["Paint the subject", "image"])) == 4
