"""Questions, phrases and regions inside a real ComfyUI, and what becomes of boxes."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image, ImageDraw

SEEDS = (HELD_OUT + 77, HELD_OUT + 79)


class Graph:
    """Builds a workflow node by node, with the sandbox and scenes of its world."""

    def __init__(self, server: ComfyUI, client: Client) -> None:
        self.nodes: dict[str, dict] = {}
        self._server, self._client = server, client
        self.shown: list[str] = []

    def add(self, kind: str, **inputs: object) -> Callable[[int], list]:
        """Add a node; the result gives a link to each of its outputs."""
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": kind, "inputs": inputs}
        return lambda slot: [key, slot]

    def model(self) -> list:
        return self.add("LoadKosmos", model="sandbox", dtype="auto", attention="auto")(0)

    def picture(self, name: str, picture: Image.Image) -> list:
        picture.save(self._server.input / name)
        return self.add("LoadImage", image=name)(0)

    def scenes(self) -> list:
        """A batch of two scenes, 112 pixels square."""
        links = [
            self.picture(f"scene_{seed}.png", Image.fromarray(draw_sample(seed, 112).pixels))
            for seed in SEEDS
        ]
        return self.add("ImageBatch", image1=links[0], image2=links[1])(0)

    def show(self, *links: list) -> None:
        for link in links:
            self.shown.append(self.add("PreviewAny", source=link)(0)[0])

    def run(self) -> Outcome:
        return self._client.run(self.nodes)

    def texts(self) -> list[list[str]]:
        """Run, and return what each shown link carried: a text for each item of its list."""
        outcome = self.run()
        assert outcome.failure is None, outcome.failure
        return [list(outcome.outputs[key]["text"]) for key in self.shown]

    def refusal(self, node: str) -> str:
        """Run, and return the one sentence with which a node refused its input."""
        failure = self.run().failure
        assert failure is not None
        assert failure.node_type == node
        assert failure.kind.endswith("UserError")
        assert failure.sentence.count(". ") == 0
        return failure.sentence


@pytest.fixture
def graph(server: ComfyUI, client: Client) -> Graph:
    return Graph(server, client)


def boxes(text: str) -> list[list[int]]:
    return ast.literal_eval(text)


def test_every_question_gets_an_answer_for_every_picture(graph: Graph) -> None:
    asked = "how many are there?\n\nwhat colour is the house?\n"
    ask = graph.add(
        "AskImage",
        kosmos=graph.model(),
        image=graph.scenes(),
        questions=asked,
        max_new_tokens=8,
        batch_size=0,
    )
    graph.show(ask(0))
    (answers,) = graph.texts()
    assert len(answers) == 4
    assert all(answers)


def ground(graph: Graph, image: list, phrases: str, verify: bool = True) -> Callable[[int], list]:
    return graph.add(
        "GroundPhrase",
        kosmos=graph.model(),
        image=image,
        phrases=phrases,
        verify=verify,
        batch_size=0,
    )


def test_a_phrase_becomes_boxes_masks_and_a_drawing(graph: Graph, server: ComfyUI) -> None:
    found = ground(graph, graph.scenes(), "a fish\na house", verify=False)
    graph.show(found(1), found(4))
    graph.add("SaveImage", images=found(3), filename_prefix="ask_drawn")
    mask = graph.add("MaskToImage", mask=found(2))
    graph.add("SaveImage", images=mask(0), filename_prefix="ask_mask")
    found_boxes, missing = graph.texts()
    assert len(found_boxes) == 2
    for each in map(boxes, found_boxes):
        assert len(each) >= 2
        assert all(0 <= x0 < x1 <= 112 and 0 <= y0 < y1 <= 112 for x0, y0, x1, y1 in each)
    assert missing == [""]
    drawn = sorted(server.output.glob("ask_drawn*.png"))
    masks = sorted(server.output.glob("ask_mask*.png"))
    assert len(drawn) == len(masks) == 2
    for path, each in zip(masks, found_boxes, strict=True):
        x0, y0, x1, y1 = boxes(each)[0]
        assert Image.open(path).getpixel(((x0 + x1) // 2, (y0 + y1) // 2)) == (255, 255, 255)


def test_a_phrase_that_is_not_there_gets_no_box_and_is_named(graph: Graph) -> None:
    empty = graph.picture("empty.png", Image.new("RGB", (112, 112), "white"))
    found = ground(graph, empty, "a zeppelin")
    graph.show(found(1), found(4))
    found_boxes, missing = graph.texts()
    assert boxes(found_boxes[0]) == []
    assert missing == ["not found: a zeppelin"]


def test_boxes_of_phrases_describe_their_regions_again(graph: Graph) -> None:
    scenes = graph.scenes()
    found = ground(graph, scenes, "a fish\na house", verify=False)
    told = graph.add("DescribeRegion", kosmos=graph.model(), image=scenes, bbox=found(1))
    graph.show(told(0))
    (descriptions,) = graph.texts()
    assert len(descriptions) >= 4
    assert all(descriptions)


def test_a_painted_mask_is_a_region(graph: Graph, server: ComfyUI) -> None:
    scene = Image.fromarray(draw_sample(SEEDS[0], 112).pixels).convert("RGBA")
    hole = Image.new("L", scene.size, 255)
    ImageDraw.Draw(hole).rectangle((60, 35, 105, 80), fill=0)  # core's mask is 1 where alpha is 0
    scene.putalpha(hole)
    scene.save(server.input / "masked.png")
    loaded = graph.add("LoadImage", image="masked.png")
    told = graph.add("DescribeRegion", kosmos=graph.model(), image=loaded(0), mask=loaded(1))
    graph.show(told(0))
    assert len(graph.texts()[0]) == 1


def test_a_region_outside_the_picture_is_one_sentence(graph: Graph) -> None:
    house = Image.fromarray(draw_sample(SEEDS[1], 112).pixels)
    large = graph.picture("large.png", house.resize((2000, 2000)))
    found = ground(graph, large, "a house", verify=False)
    crop = graph.add(
        "GroundingCrop",
        image=large,
        grounding=found(0),
        select="all",
        phrase="",
        box_index=0,
        padding=0.0,
    )
    small = graph.picture("small.png", Image.new("RGB", (8, 8), "navy"))
    told = graph.add("DescribeRegion", kosmos=graph.model(), image=small, bbox=crop(1))
    graph.show(told(0))
    assert "outside the picture of 8x8 pixels" in graph.refusal("DescribeRegion")


def test_no_region_is_one_sentence(graph: Graph) -> None:
    scenes = graph.scenes()
    graph.show(graph.add("DescribeRegion", kosmos=graph.model(), image=scenes)(0))
    assert "no region" in graph.refusal("DescribeRegion")


def test_a_mask_that_marks_nothing_is_one_sentence(graph: Graph) -> None:
    scenes = graph.scenes()
    nothing = graph.add("SolidMask", value=0.0, width=64, height=64)(0)
    told = graph.add("DescribeRegion", kosmos=graph.model(), image=scenes, mask=nothing)
    graph.show(told(0))
    assert "The mask is empty" in graph.refusal("DescribeRegion")


@pytest.mark.parametrize(
    ("phrases", "named"), [(" \n", "There is no phrase"), ("a dog " * 400, "shorten it")]
)
def test_phrases_that_are_none_or_too_long_are_one_sentence(
    graph: Graph, phrases: str, named: str
) -> None:
    graph.show(ground(graph, graph.scenes(), phrases)(1))
    assert named in graph.refusal("GroundPhrase")


@pytest.mark.parametrize(
    ("questions", "named"), [(" \n", "There is no question"), ("why " * 400, "shorten it")]
)
def test_questions_that_are_none_or_too_long_are_one_sentence(
    graph: Graph, questions: str, named: str
) -> None:
    asked = {"questions": questions, "max_new_tokens": 8, "batch_size": 0}
    ask = graph.add("AskImage", kosmos=graph.model(), image=graph.scenes(), **asked)
    graph.show(ask(0))
    assert named in graph.refusal("AskImage")


def test_overlapping_and_nested_boxes_make_one_mask_and_a_crop_each(
    graph: Graph, server: ComfyUI
) -> None:
    scenes = graph.scenes()
    # The same thing three times: boxes that overlap or lie in one another.
    found = ground(graph, scenes, "a house\na thing\nthe house", verify=False)
    choice = {"select": "all", "phrase": "", "box_index": 0, "padding": 0.1}
    masked = graph.add("GroundingToMask", image=scenes, grounding=found(0), **choice)
    crops = graph.add(
        "GroundingCrop", image=scenes, grounding=found(0), aspect="square", size=64, **choice
    )
    graph.show(masked(2), crops(1))
    graph.add("SaveImage", images=crops(0), filename_prefix="ask_crop")
    every_mask = graph.add("MaskToImage", mask=masked(1))
    graph.add("SaveImage", images=every_mask(0), filename_prefix="ask_each")
    per_picture, per_crop = graph.texts()
    count = sum(len(boxes(each)) for each in per_picture)
    assert count == len(per_crop) > len(per_picture)
    sizes = {Image.open(path).size for path in server.output.glob("ask_crop*.png")}
    assert sizes == {(64, 64)}
    assert len(list(server.output.glob("ask_each*.png"))) == count


def test_a_choice_that_no_picture_has_is_no_mask_and_no_crop(graph: Graph) -> None:
    scenes = graph.scenes()
    found = ground(graph, scenes, "a house", verify=False)
    choice = {"select": "phrase", "phrase": "zeppelin", "box_index": 0, "padding": 0.0}
    masked = graph.add("GroundingToMask", image=scenes, grounding=found(0), **choice)
    graph.show(masked(2))
    assert graph.texts() == [["[]", "[]"]]
    crop = graph.add("GroundingCrop", image=scenes, grounding=found(0), **choice)
    graph.show(crop(1))
    assert '"zeppelin"' in graph.refusal("GroundingCrop")


@pytest.mark.parametrize("node", ["GroundingToMask", "GroundingCrop"])
def test_boxes_of_other_pictures_are_one_sentence(graph: Graph, node: str) -> None:
    one = graph.picture("one.png", Image.fromarray(draw_sample(SEEDS[0], 112).pixels))
    found = ground(graph, graph.scenes(), "a house", verify=False)
    choice = {"select": "all", "phrase": "", "box_index": 0, "padding": 0.0}
    graph.show(graph.add(node, image=one, bbox=found(1), **choice)(1))
    assert "There are 1 images but 2 entries in the bbox input" in graph.refusal(node)
