"""PatchTokens: PCA colours, and the patches similar to a phrase or to a patch."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client

from .conftest import Graph, images, scene, texts


def patches_graph(server: ComfyUI, **settings: object) -> Graph:
    """Compare the patches of one scene with a phrase or a patch, and all with one another."""
    inputs = {"kosmos": ["kosmos", 0], "image": ["images", 0], **settings}
    return (
        Graph()
        .load_images(server.input, scene(940_000_000, 112, 2).resize((200, 100)))
        .add("kosmos", "LoadKosmos")
        .add("patches", "PatchTokens", **inputs)
        .add("compare", "CompareEmbeddings", rows=["patches", 0], columns=["patches", 0], top=1)
        .add("best", "PreviewAny", source=["compare", 1])
        .add("matrix", "PreviewImage", images=["compare", 4])
        .add("slots", "CompareEmbeddings", rows=["patches", 1], columns=["patches", 1], top=1)
        .add("best slots", "PreviewAny", source=["slots", 1])
        .add("colours", "SaveImage", images=["patches", 2])
        .add("overlay", "PreviewImage", images=["patches", 3])
        .add("as image", "MaskToImage", mask=["patches", 4])
        .add("mask", "SaveImage", images=["as image", 0])
    )


@pytest.mark.parametrize("compare_with", ["phrase", "patch"])
def test_an_image_gets_colours_a_mask_and_similarities(
    client: Client, server: ComfyUI, compare_with: str
) -> None:
    outcome = patches_graph(server, compare_with=compare_with, row=2, column=5).outputs(client)
    [similarity] = outcome.outputs["patches"]["similarity"]
    assert [len(row) for row in similarity["grid"]] == [8] * 8
    alike = np.frombuffer(b64decode(similarity["alike"]), np.uint8).reshape(64, 64)
    assert (alike.argmax(1) == np.arange(64)).all()
    if compare_with == "patch":
        assert similarity["grid"][2][5] == max(max(row) for row in similarity["grid"])
    assert [int(text) for text in texts(outcome, "best")] == list(range(64))
    assert [int(text) for text in texts(outcome, "best slots")] == list(range(16))
    for node in ("colours", "mask"):
        [image] = images(server, outcome, node)
        assert image.size == (200, 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compare_with": "patch", "row": 8}, "from 0 to 7"),
        ({"phrase": "  "}, "empty"),
        ({"phrase": "a dog " * 200}, "shorten it"),
    ],
)
def test_a_wrong_input_is_one_sentence(
    client: Client, server: ComfyUI, settings: dict, message: str
) -> None:
    sentence = patches_graph(server, **settings).failure(client, "PatchTokens")
    assert message in sentence
    assert sentence.count(".") == 1
