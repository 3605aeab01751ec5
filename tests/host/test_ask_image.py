"""AskImage, GroundPhrase, DescribeRegion, and the masks and crops made of their boxes."""

from __future__ import annotations

import ast

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image, ImageDraw

from .conftest import Graph, images, scene, texts

SEEDS = (77, 79)


def kosmos_graph(server: ComfyUI, *loaded: Image.Image) -> Graph:
    """The sandbox's Kosmos-2 and a batch of images: two scenes unless some are given."""
    return (
        Graph()
        .add("kosmos", "LoadKosmos")
        .load_images(server.input, *(loaded or map(scene, SEEDS)), name="asked")
    )


def ground_graph(
    server: ComfyUI, *loaded: Image.Image, phrases: str = "a house", verify: bool = False
) -> Graph:
    """Ground phrases; show the boxes and the phrases that were not found."""
    inputs = {"kosmos": ["kosmos", 0], "image": ["images", 0]}
    return (
        kosmos_graph(server, *loaded)
        .add("ground", "GroundPhrase", **inputs, phrases=phrases, verify=verify)
        .add("boxes", "PreviewAny", source=["ground", 1])
        .add("missing", "PreviewAny", source=["ground", 4])
    )


def describe(graph: Graph, **inputs: object) -> Graph:
    graph.add("describe", "DescribeRegion", **{"kosmos": ["kosmos", 0], "image": ["images", 0]})
    graph.set("describe", **inputs)
    return graph.add("descriptions", "PreviewAny", source=["describe", 0])


def boxes(text: str) -> list[list[int]]:
    return ast.literal_eval(text)


def ask_graph(server: ComfyUI, questions: str) -> Graph:
    inputs = {"kosmos": ["kosmos", 0], "image": ["images", 0], "questions": questions}
    return (
        kosmos_graph(server)
        .add("ask", "AskImage", **inputs, max_new_tokens=8)
        .add("answers", "PreviewAny", source=["ask", 0])
    )


def test_each_question_gets_an_answer_per_image(client: Client, server: ComfyUI) -> None:
    graph = ask_graph(server, "how many are there?\n\nwhat colour is the house?\n")
    outcome = graph.outputs(client)
    answers = texts(outcome, "answers")
    assert len(answers) == 4
    assert all(answers)
    questions = ("how many are there?", "what colour is the house?")
    asked = [f"image {image}: {question}" for image in (1, 2) for question in questions]
    lines = [f"{question} {answer}" for question, answer in zip(asked, answers, strict=True)]
    assert dict(outcome.texts)["ask"].splitlines() == lines


def test_a_phrase_gets_boxes_masks_and_a_drawing(client: Client, server: ComfyUI) -> None:
    graph = (
        ground_graph(server, phrases="a fish\na house")
        .add("drawing", "SaveImage", images=["ground", 3], filename_prefix="ask_drawn")
        .add("as image", "MaskToImage", mask=["ground", 2])
        .add("mask", "SaveImage", images=["as image", 0], filename_prefix="ask_mask")
    )
    outcome = graph.outputs(client)
    box_lists = [boxes(text) for text in texts(outcome, "boxes")]
    assert [len(box_list) for box_list in box_lists] == [1, 1]
    for ((x0, y0, x1, y1),) in box_lists:
        assert 0 <= x0 < x1 <= 112
        assert 0 <= y0 < y1 <= 112
    (missing,) = texts(outcome, "missing")
    assert "a house" in missing.splitlines()[0]
    assert "a fish" in missing.splitlines()[1]
    masks = images(server, outcome, "mask")
    assert len(images(server, outcome, "drawing")) == len(masks) == 2
    for mask, box_list in zip(masks, box_lists, strict=True):
        x0, y0, x1, y1 = box_list[0]
        assert mask.getpixel(((x0 + x1) // 2, (y0 + y1) // 2)) == (255, 255, 255)


def test_an_absent_phrase_gets_no_box_and_is_named(client: Client, server: ComfyUI) -> None:
    empty = Image.new("RGB", (112, 112), "white")
    outcome = ground_graph(server, empty, phrases="a zeppelin", verify=True).outputs(client)
    assert boxes(texts(outcome, "boxes")[0]) == []
    assert texts(outcome, "missing") == ["not found: a zeppelin"]


def test_boxes_of_phrases_are_described(client: Client, server: ComfyUI) -> None:
    graph = describe(ground_graph(server, phrases="a fish\na house"), bbox=["ground", 1])
    descriptions = texts(graph.outputs(client), "descriptions")
    assert descriptions == ["a brown striped fish.", "a blue striped house."]


def test_a_mask_drawn_by_hand_is_described(client: Client, server: ComfyUI) -> None:
    image = scene(SEEDS[0]).convert("RGBA")
    hole = Image.new("L", image.size, 255)
    ImageDraw.Draw(hole).rectangle((60, 35, 105, 80), fill=0)  # core's mask is 1 where alpha is 0
    image.putalpha(hole)
    graph = describe(kosmos_graph(server, image), mask=["images", 1])
    assert len(texts(graph.outputs(client), "descriptions")) == 1


def test_a_region_outside_the_image_is_refused(client: Client, server: ComfyUI) -> None:
    graph = ground_graph(server, scene(SEEDS[1]).resize((2000, 2000)))
    graph.add("crop", "GroundingCrop", image=["images", 0], grounding=["ground", 0])
    Image.new("RGB", (8, 8), "navy").save(server.input / "small.png")
    graph.add("small", "LoadImage", image="small.png")
    describe(graph, image=["small", 0], bbox=["crop", 1])
    sentence = graph.failure(client, "DescribeRegion")
    assert "outside the" in sentence
    assert "of 8x8 pixels" in sentence


def test_no_region_is_refused(client: Client, server: ComfyUI) -> None:
    assert "no region" in describe(kosmos_graph(server)).failure(client, "DescribeRegion")


def test_an_empty_mask_is_refused(client: Client, server: ComfyUI) -> None:
    graph = describe(kosmos_graph(server), mask=["nothing", 0])
    graph.add("nothing", "SolidMask", value=0.0, width=64, height=64)
    assert "The mask is empty" in graph.failure(client, "DescribeRegion")


def test_an_empty_mask_among_others_is_left_out(client: Client, server: ComfyUI) -> None:
    graph = kosmos_graph(server)
    graph.add("nothing", "SolidMask", value=0.0, width=112, height=112)
    graph.add("whole", "SolidMask", value=1.0, width=112, height=112)
    graph.add("nothing image", "MaskToImage", mask=["nothing", 0])
    graph.add("whole image", "MaskToImage", mask=["whole", 0])
    graph.add("both", "ImageBatch", image1=["nothing image", 0], image2=["whole image", 0])
    graph.add("masks", "ImageToMask", image=["both", 0], channel="red")
    describe(graph, mask=["masks", 0])
    assert len(texts(graph.outputs(client), "descriptions")) == 1


@pytest.mark.parametrize(
    ("phrases", "message"), [(" \n", "There is no phrase"), ("a dog " * 400, "shorten it")]
)
def test_empty_or_long_phrases_are_refused(
    client: Client, server: ComfyUI, phrases: str, message: str
) -> None:
    graph = ground_graph(server, phrases=phrases, verify=True)
    assert message in graph.failure(client, "GroundPhrase")


@pytest.mark.parametrize(
    ("questions", "message"), [(" \n", "There is no question"), ("why " * 400, "shorten it")]
)
def test_empty_or_long_questions_are_refused(
    client: Client, server: ComfyUI, questions: str, message: str
) -> None:
    assert message in ask_graph(server, questions).failure(client, "AskImage")


def test_overlapping_boxes_make_one_mask_per_image_and_one_crop_per_box(
    client: Client, server: ComfyUI
) -> None:
    # Three phrases for one object: boxes that overlap or lie inside one another.
    choice = {"image": ["images", 0], "grounding": ["ground", 0], "padding": 0.1}
    graph = (
        ground_graph(server, phrases="a house\na thing\nthe house")
        .add("masks", "GroundingToMask", **choice)
        .add("crops", "GroundingCrop", **choice, aspect="square", size=64)
        .add("boxes per image", "PreviewAny", source=["masks", 2])
        .add("boxes per crop", "PreviewAny", source=["crops", 1])
        .add("crop", "SaveImage", images=["crops", 0], filename_prefix="ask_crop")
        .add("as image", "MaskToImage", mask=["masks", 1])
        .add("mask", "SaveImage", images=["as image", 0], filename_prefix="ask_each")
    )
    outcome = graph.outputs(client)
    per_image = texts(outcome, "boxes per image")
    count = sum(len(boxes(text)) for text in per_image)
    assert count == len(texts(outcome, "boxes per crop")) > len(per_image)
    assert {path.size for path in map(Image.open, server.output.glob("ask_crop*.png"))} == {
        (64, 64)
    }
    assert len(images(server, outcome, "mask")) == count


def test_a_phrase_in_no_image_selects_nothing(client: Client, server: ComfyUI) -> None:
    choice = {"image": ["images", 0], "grounding": ["ground", 0]}
    choice |= {"select": "phrase", "phrase": "zeppelin"}
    graph = ground_graph(server).add("masks", "GroundingToMask", **choice)
    graph.add("selected", "PreviewAny", source=["masks", 2])
    assert texts(graph.outputs(client), "selected") == ["[]", "[]"]
    graph.add("crops", "GroundingCrop", **choice)
    graph.add("crop boxes", "PreviewAny", source=["crops", 1])
    assert '"zeppelin"' in graph.failure(client, "GroundingCrop")


@pytest.mark.parametrize("node", ["GroundingToMask", "GroundingCrop"])
def test_boxes_of_other_images_are_refused(client: Client, server: ComfyUI, node: str) -> None:
    graph = ground_graph(server)
    graph.add("one", "LoadImage", image="asked_0.png")
    graph.add("select", node, image=["one", 0], bbox=["ground", 1])
    graph.add("selected", "PreviewAny", source=["select", 1])
    message = "There are 1 images but 2 entries in the bbox input"
    assert message in graph.failure(client, node)
