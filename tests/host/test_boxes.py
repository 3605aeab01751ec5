"""Boxes between the pack's nodes and core's: BBOX, BOUNDING_BOX, and a grounding made of them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

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


PER_IMAGE = [[[2, 4, 10, 20], [5, 5, 9, 9]], [], [[0, 0, 32, 30]]]
"""Boxes of a batch of three images of 32x40 pixels."""
ONE = [4, 8, 16, 32]
NAMED = {"label": "a dog", "score": 0.5}


def written(form: Callable[[int, int, int, int], object]) -> str:
    return repr([[form(*box) for box in of_image] for of_image in PER_IMAGE])


def core_box(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}


FORMS: dict[str, tuple[str, str, bool, list]] = {
    "core": (written(lambda *box: core_box(*box) | NAMED), "as written", False, PER_IMAGE),
    "core, a value per image": (written(core_box), "as written", True, PER_IMAGE),
    "KJNodes": (
        written(lambda x0, y0, x1, y1: {"startX": x1, "startY": y0, "endX": x0, "endY": y1}),
        "as written",
        False,
        PER_IMAGE,
    ),
    "edges": (repr(PER_IMAGE), "as written", False, PER_IMAGE),
    "tuples": (repr(tuple(tuple(map(tuple, b)) for b in PER_IMAGE)), "as written", 0, PER_IMAGE),
    "scores": (written(lambda *box: [*box, 0.25]), "as written", False, PER_IMAGE),
    "arrays": (written(lambda *box: [*map(float, box), 0.25]), "numpy", True, PER_IMAGE),
    "tensors": (repr(PER_IMAGE), "tensor", True, PER_IMAGE),
    "a tensor per batch": (repr([[ONE], [ONE], [ONE]]), "tensor", False, [[ONE]] * 3),
    "one array": (repr(ONE), "numpy", False, [[ONE]] * 3),
    "one dictionary": (repr(core_box(*ONE)), "as written", False, [[ONE]] * 3),
    "one list": (repr([ONE, ONE]), "as written", False, [[ONE, ONE]] * 3),
    "nothing": ("[]", "as written", False, [[]] * 3),
}
"""A literal, its conversion, whether its items are a list of values, and the boxes in it."""


def three_images() -> Graph:
    return Graph().add("images", "EmptyImage", width=32, height=40, batch_size=3)


def test_every_form_of_boxes_becomes_masks_of_its_images(client: Client, server: ComfyUI) -> None:
    graph = three_images()
    for name, (literal, form, each, _) in FORMS.items():
        graph.add(name, "OtherBoxes", literal=literal, form=form, each=bool(each))
        for output in (0, 1):
            mask = f"{name} mask {output}"
            graph.add(mask, "GroundingToMask", **IMAGE, bbox=[name, output])
            show(graph, (mask, 2))
            graph.add(f"{mask} image", "MaskToImage", mask=[mask, 0])
            graph.add(f"{mask} shown", "PreviewImage", images=[f"{mask} image", 0])
    outcome = graph.outputs(client)
    for name, (*_, expected) in FORMS.items():
        for mask in (f"{name} mask 0", f"{name} mask 1"):
            pixels = [ast.literal_eval(text) for text in texts(outcome, f"{mask} 2")]
            assert pixels == expected, name
            shown = images(server, outcome, f"{mask} shown")
            for boxes, picture in zip(expected, shown, strict=True):
                inside = np.zeros((40, 32), np.uint8)
                for x0, y0, x1, y1 in boxes:
                    inside[y0:y1, x0:x1] = 255
                assert np.array_equal(np.asarray(picture)[..., 0], inside), name


@pytest.mark.parametrize(
    ("literal", "sentence"),
    [
        ("[[[1, 2, 3, 4]], [[1, 2, 3, 4]]]", "3 images but 2 entries in the bbox input"),
        ("[[[1, 2, 3, 4]], [], [], []]", "3 images but 4 entries in the bbox input"),
        ("[0.1, 0.2, 0.5, 0.9]", "multiply fractions of the image"),
        ('{"boxes": [[1, 2, 3, 4]], "labels": ["a dog"]}', "which is no box"),
        ('{"x": [1, 2], "y": 1, "width": 1, "height": 1}', "which is no box"),
        ("[[[1, 2, 3]], [], []]", "which is no box"),
        ('"1, 2, 3, 4"', "type str, not a box"),
        ("[[33, 0, 40, 9]]", "outside the image of 32x40"),
    ],
)
def test_what_is_no_box_of_the_images_is_named(client: Client, literal: str, sentence: str) -> None:
    graph = three_images().add("boxes", "OtherBoxes", literal=literal)
    graph.add("mask", "GroundingToMask", **IMAGE, bbox=["boxes", 1])
    assert sentence in show(graph, ("mask", 2)).failure(client, "mask")


def test_boxes_of_a_list_of_images_stay_with_their_images(client: Client, server: ComfyUI) -> None:
    """Core's nodes run once for each image of a list, and take the boxes of that one."""
    graph = three_images().add("one by one", "RebatchImages", images=["images", 0], batch_size=1)
    graph.add("boxes", "OtherBoxes", literal=written(core_box))
    image = {"image": ["one by one", 0]}
    for node, output in (("GroundingToMask", 3), ("GroundingCrop", 2)):
        graph.add(node, node, **image, bbox=["boxes", 1])
        graph.add(f"{node} sam3", "StandInSAM3", model=["model", 0], bboxes=[node, output], **image)
        graph.add(f"{node} mask", "MaskToImage", mask=[f"{node} sam3", 0])
        graph.add(f"{node} shown", "PreviewImage", images=[f"{node} mask", 0])
    graph.add("model", "StandInCheckpoint", ckpt_name="")
    outcome = graph.outputs(client)
    for node in ("GroundingToMask", "GroundingCrop"):
        found = [mask_box(picture) for picture in images(server, outcome, f"{node} shown")]
        assert found == [(2, 4, 10, 20), None, (0, 0, 32, 30)]


def mask_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """The bounding box of what is white."""
    return picture.convert("L").getbbox()


CORE_KEYS = ("x", "y", "width", "height")


@pytest.mark.parametrize("source", ["OtherBoxes", "RTDETR_detect", "CreateBoundingBoxes"])
def test_detected_boxes_become_masks_and_are_described(
    client: Client, server: ComfyUI, source: str
) -> None:
    if source not in node_schemas(client):
        pytest.skip(f"this ComfyUI has no {source}")
    dog = {"x": 0.25, "y": 0.5, "width": 55.75, "height": 111.0, "label": "dog", "score": 0.75}
    cat = {"x": 56.0, "y": 0.0, "width": 56.0, "height": 112.0, "label": "cat", "score": 0.875}
    inputs: dict[str, dict[str, Any]] = {
        "OtherBoxes": {"literal": repr([[cat, dog]] * 2)},
        "RTDETR_detect": {"model": ["model", 0], **IMAGE, "threshold": 0.5},
        "CreateBoundingBoxes": {
            "width": 112,
            "height": 112,
            "editor_state": {  # as the browser sends what is not a link
                "__value__": [{"x": x, "y": 0, "width": 56, "height": 112} for x in (56, 0)]
            },
        },
    }
    graph = ground_graph(server).add("detect", source, **inputs[source])
    if source == "RTDETR_detect":
        graph.add("model", "StandInCheckpoint", ckpt_name="")
    bboxes = ["detect", 0 if source == "RTDETR_detect" else 1]
    graph.add("mask", "GroundingToMask", **IMAGE, bbox=bboxes)
    describe(graph, bbox=bboxes)
    if source != "CreateBoundingBoxes":  # which has no labels
        graph.set("mask", select="phrase", phrase="dog")
    outcome = show(graph, ("mask", 2), ("mask", 3), ("describe", 3)).outputs(client)
    masks = [ast.literal_eval(text) for text in texts(outcome, "mask 2")]
    [described] = map(ast.literal_eval, texts(outcome, "describe 3"))
    regions = [[[box[key] for key in CORE_KEYS] for box in of_image] for of_image in described]
    left, right = [0, 0, 56, 112], [56, 0, 56, 112]
    assert [sorted(of_image) for of_image in regions] == [[left, right]] * 2
    if source == "CreateBoundingBoxes":
        assert [sorted(of_image) for of_image in masks] == [[left, [56, 0, 112, 112]]] * 2
    else:
        assert masks == [[left]] * 2
        [[dogs, _]] = map(ast.literal_eval, texts(outcome, "mask 3"))
        assert [(box["label"], box["score"]) for box in dogs] == [("dog", 0.75)]


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
