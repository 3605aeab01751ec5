"""Boxes between the pack's nodes and core's: BBOX, BOUNDING_BOX, and a grounding made of them."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client

from .conftest import Graph, images, node_schemas, texts
from .test_ask_image import describe, ground_graph

IMAGE = {"image": ["images", 0]}


@pytest.fixture
def core_boxes(client: Client) -> None:
    """Skip on a ComfyUI whose core has no nodes with boxes."""
    if "DrawBBoxes" not in node_schemas(client):
        pytest.skip("this ComfyUI has no BOUNDING_BOX")


def show(graph: Graph, *sources: tuple[str, int]) -> Graph:
    for node, output in sources:
        graph.add(f"{node} {output}", "PreviewAny", source=[node, output])
    return graph


def test_both_socket_types_carry_the_boxes_of_each_image(client: Client, server: ComfyUI) -> None:
    graph = ground_graph(server, phrases="a fish\na house").set("ground", verify=True)
    for socket, output in (("BBOX", 1), ("BOUNDING_BOX", 5)):
        graph.add(socket, "GroundingToMask", **IMAGE, bbox=["ground", output])
        graph.add(f"{socket} crop", "GroundingCrop", **IMAGE, bbox=["ground", output])
        show(graph, (socket, 2), (socket, 3), (f"{socket} crop", 2))
    outcome = show(graph, ("ground", 1), ("ground", 5)).outputs(client)
    pixels = [ast.literal_eval(text) for text in texts(outcome, "ground 1")]
    assert len(pixels) == 2
    assert pixels[0] != pixels[1]
    [bboxes] = map(ast.literal_eval, texts(outcome, "ground 5"))
    for of_image, boxes in zip(bboxes, pixels, strict=True):
        assert [
            [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
            for box in of_image
        ] == boxes
        assert {box["label"] for box in of_image} <= {"a fish", "a house"}
        assert {box["score"] for box in of_image} <= {1.0}
    for socket in ("BBOX", "BOUNDING_BOX"):
        assert [ast.literal_eval(text) for text in texts(outcome, f"{socket} 2")] == pixels
    assert ast.literal_eval(texts(outcome, "BOUNDING_BOX 3")[0]) == bboxes
    assert ast.literal_eval(texts(outcome, "BOUNDING_BOX crop 2")[0]) == bboxes


def test_boxes_are_selected_by_their_labels(client: Client, server: ComfyUI) -> None:
    select = {"select": "phrase", "phrase": "house"}
    graph = ground_graph(server, phrases="a fish\na house")
    graph.add("labeled", "GroundingToMask", **IMAGE, **select, bbox=["ground", 5])
    outcome = show(graph, ("labeled", 3)).outputs(client)
    labels = {
        box["label"]
        for of_image in ast.literal_eval(texts(outcome, "labeled 3")[0])
        for box in of_image
    }
    assert labels == {"a house"}
    graph.add("unlabeled", "GroundingToMask", **IMAGE, **select, bbox=["ground", 1])
    message = show(graph, ("unlabeled", 3)).failure(client, "GroundingToMask")
    assert "have no labels" in message


def test_a_grounding_is_made_of_boxes_and_masks(client: Client, server: ComfyUI) -> None:
    graph = ground_graph(server, phrases="a fish\na house")
    inputs = {**IMAGE, "texts": "The house, where a Fish is"}
    graph.add("boxes", "GroundingFromBoxes", **inputs, bbox=["ground", 5])
    graph.add("masks", "GroundingFromBoxes", **IMAGE, texts="", mask=["ground", 2], labels="a dog")
    for name, phrase in (("boxes", "fish"), ("masks", "a dog")):
        select = {"select": "phrase", "phrase": phrase, "grounding": [name, 0]}
        graph.add(f"{name} selected", "GroundingToMask", **IMAGE, **select)
        show(graph, (f"{name} selected", 3))
    graph.add("drawn", "PreviewImage", images=["boxes", 1])
    outcome = show(graph, ("ground", 5)).outputs(client)
    [bboxes] = map(ast.literal_eval, texts(outcome, "ground 5"))
    [fish] = map(ast.literal_eval, texts(outcome, "boxes selected 3"))
    assert [[box | {"label": "a fish"} for box in of_image] for of_image in fish] == [
        [box for box in of_image if box["label"] == "a fish"] for of_image in bboxes
    ]
    [dogs] = map(ast.literal_eval, texts(outcome, "masks selected 3"))
    assert [[box["label"] for box in of_image] for of_image in dogs] == [["a dog"]] * 2
    assert len(images(server, outcome, "drawn")) == 2
    assert not outcome.texts
    graph.set("boxes", texts="nothing of it")
    named = "\n".join(text for _, text in show(graph).run(client).texts)
    assert 'not found in the text of image 2: "a house"' in named


def test_a_grounding_needs_boxes(client: Client, server: ComfyUI) -> None:
    graph = ground_graph(server).add("made", "GroundingFromBoxes", **IMAGE, texts="a dog")
    assert "connect a bbox or a mask" in show(graph, ("made", 0)).failure(client, "made")


@pytest.mark.usefixtures("core_boxes")
def test_core_draws_the_boxes_of_a_phrase(client: Client, server: ComfyUI) -> None:
    graph = ground_graph(server, phrases="a fish\na house")
    graph.add("draw", "DrawBBoxes", **IMAGE, bboxes=["ground", 5])
    graph.add("drawn", "SaveImage", images=["draw", 0], filename_prefix="core_drawn")
    graph.add("plain", "SaveImage", images=["images", 0], filename_prefix="core_plain")
    outcome = show(graph, ("ground", 5)).outputs(client)
    [bboxes] = map(ast.literal_eval, texts(outcome, "ground 5"))
    pairs = zip(images(server, outcome, "plain"), images(server, outcome, "drawn"), strict=True)
    for (plain, drawn), boxes in zip(pairs, bboxes, strict=True):
        changed = (np.asarray(plain) != np.asarray(drawn)).any(-1)
        for box in boxes:
            assert changed[box["y"], box["x"] + 1 : box["x"] + box["width"] - 1].any()


@pytest.mark.usefixtures("core_boxes")
def test_a_box_of_core_becomes_a_mask_and_is_described(client: Client, server: ComfyUI) -> None:
    graph = ground_graph(server)
    box = {"x": 10, "y": 20, "width": 60, "height": 30}
    graph.add("box", "PrimitiveBoundingBox", **box)
    graph.add("mask", "GroundingToMask", **IMAGE, bbox=["box", 0])
    describe(graph, bbox=["box", 0])
    outcome = show(graph, ("mask", 2), ("describe", 3)).outputs(client)
    assert [ast.literal_eval(t) for t in texts(outcome, "mask 2")] == [[[10, 20, 70, 50]]] * 2
    descriptions = texts(outcome, "descriptions")
    assert len(descriptions) == 2
    [described] = map(ast.literal_eval, texts(outcome, "describe 3"))
    for [region], text in zip(described, descriptions, strict=True):
        assert region == {**box, "label": text.rstrip("."), "score": 1.0}


@pytest.mark.usefixtures("core_boxes")
def test_boxes_of_a_phrase_go_through_sam3_into_a_training_set(
    client: Client, server: ComfyUI
) -> None:
    """The server accepts the graph and runs it up to SAM3, whose weights are not here."""
    graph = ground_graph(server, phrases="a house")
    graph.add("load", "LoadDiffusion").add("other", "ToComfyModel", diffusion=["load", 0])
    graph.add("sam3", "SAM3_Detect", **IMAGE, model=["other", 0], bboxes=["ground", 5])
    graph.add("subject", "SubjectDataset", **IMAGE, mask=["sam3", 0])
    failure = show(graph, ("subject", 1)).run(client).failure
    assert failure is not None
    assert failure.node == "sam3"
    assert "forward_segment" in failure.sentence
