"""AttentionMap on two scenes: captions that are given, grounded or generated."""

from __future__ import annotations

from base64 import b64decode

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome

from .conftest import Graph, images, scene, texts


def attention_graph(server: ComfyUI, **settings: object) -> Graph:
    """Map the words of captions on two scenes."""
    inputs = {"kosmos": ["kosmos", 0], "image": ["images", 0]}
    return (
        Graph()
        .load_images(server.input, *(scene(920_000_000 + k, 112, 2) for k in range(2)))
        .add("kosmos", "LoadKosmos")
        .add("caption", "GroundedCaption", **inputs, max_new_tokens=64)
        .add("map", "AttentionMap", **{**inputs, **settings})
        .add("words", "PreviewAny", source=["map", 2])
        .add("overlays", "PreviewImage", images=["map", 0])
        .add("as image", "MaskToImage", mask=["map", 1])
        .add("masks", "SaveImage", images=["as image", 0], filename_prefix="attend_mask")
    )


def image_maps(outcome: Outcome) -> list[dict]:
    """What the panel gets: for each image its caption and the maps of its words."""
    return outcome.outputs["map"]["attention"]


@pytest.mark.parametrize("method", ["gradient", "attention", "rollout"])
def test_each_word_has_an_overlay_a_mask_and_a_grid(
    client: Client, server: ComfyUI, method: str
) -> None:
    graph = attention_graph(server, method=method, caption="a dog\na red cat")
    outcome = graph.outputs(client)
    maps = [word for image in image_maps(outcome) for word in image["words"]]
    assert [word["word"] for word in maps] == ["a", "dog", "a", "red", "cat"]
    assert texts(outcome, "words") == [word["word"] for word in maps]
    for word in maps:
        assert [len(row) for row in word["grid"]] == [8] * 8
        assert (word["text"] is None) == (method == "gradient")
        sizes = [len(b64decode(layer)) for layer in word["layers"]]
        assert sizes == ([] if method == "rollout" else [64] * 4)
    assert len(outcome.outputs["overlays"]["images"]) == len(maps)
    for mask, word in zip(images(server, outcome, "masks"), maps, strict=True):
        assert mask.size == (112, 112)
        _, x, y = max(
            (value, x, y) for y, row in enumerate(word["grid"]) for x, value in enumerate(row)
        )
        assert mask.getpixel((x * 14 + 7, y * 14 + 7))[0] >= 200


@pytest.mark.parametrize("settings", [{"grounding": ["caption", 1]}, {}], ids=["given", "own"])
def test_generated_captions_are_mapped(client: Client, server: ComfyUI, settings: dict) -> None:
    for image in image_maps(attention_graph(server, **settings).outputs(client)):
        caption = image["caption"]
        assert caption.startswith("An image of")
        continuation = caption.removeprefix("An image of").replace(",", "").replace(".", "")
        assert [word["word"] for word in image["words"]] == continuation.split()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption": "a dog", "words": "dog, rocket"}, 'no word "rocket"'),
        ({"caption": "a\nb\nc"}, "3 entries in the caption input"),
        ({"caption": "...", "words": ""}, "no words"),
        ({"caption": "An image of", "words": ""}, "no words"),
        ({"layers": "4"}, "0 to 3"),
        ({"heads": "first"}, "write all, last, or numbers"),
        ({"caption": "a dog " * 200}, "shorten it"),
    ],
)
def test_a_wrong_input_is_one_sentence(
    client: Client, server: ComfyUI, settings: dict, message: str
) -> None:
    assert message in attention_graph(server, **settings).failure(client, "AttentionMap")


def test_an_image_without_words_does_not_stop_the_others(client: Client, server: ComfyUI) -> None:
    graph = attention_graph(server, caption="An image of\na red dog")
    outcome = graph.outputs(client)
    assert texts(outcome, "words") == ["a", "red", "dog"]
    assert [image["picture"] for image in image_maps(outcome)] == [1]


def test_cancel_interrupts_the_maps(client: Client, server: ComfyUI) -> None:
    graph = attention_graph(server, caption="a dog and a cat")
    graph.add("many", "RepeatImageBatch", image=["images", 0], amount=100)
    graph.set("map", image=["many", 0])
    outcome = graph.run(client, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert outcome.steps[-1].done < outcome.steps[-1].total == 200
