"""Patches inside a real ComfyUI: their colours, what is like a phrase, what is like a patch."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image


def graph(server: ComfyUI, **settings: object) -> dict:
    """Look at the patches of one scene, and search them for the patch in row 0, column 0."""
    sample = draw_sample(HELD_OUT + 940_000_000, 112, 2)
    Image.fromarray(sample.pixels).resize((200, 100)).save(server.input / "patches.png")
    wanted = {"compare_with": "phrase", "phrase": "a dog", "row": 0, "column": 0, **settings}
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": "patches.png"}},
        "kosmos": {
            "class_type": "LoadKosmos",
            "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
        },
        "patches": {
            "class_type": "PatchTokens",
            "inputs": {"kosmos": ["kosmos", 0], "image": ["image", 0], **wanted},
        },
        "compare": {
            "class_type": "CompareEmbeddings",
            "inputs": {"rows": ["patches", 0], "columns": ["patches", 0], "top": 1},
        },
        "best": {"class_type": "PreviewAny", "inputs": {"source": ["compare", 1]}},
        "matrix": {"class_type": "PreviewImage", "inputs": {"images": ["compare", 4]}},
        "slots": {
            "class_type": "CompareEmbeddings",
            "inputs": {"rows": ["patches", 1], "columns": ["patches", 1], "top": 1},
        },
        "slots best": {"class_type": "PreviewAny", "inputs": {"source": ["slots", 1]}},
        "colours": {
            "class_type": "SaveImage",
            "inputs": {"images": ["patches", 2], "filename_prefix": "patch_colours"},
        },
        "overlay": {"class_type": "PreviewImage", "inputs": {"images": ["patches", 3]}},
        "as image": {"class_type": "MaskToImage", "inputs": {"mask": ["patches", 4]}},
        "mask": {
            "class_type": "SaveImage",
            "inputs": {"images": ["as image", 0], "filename_prefix": "patch_mask"},
        },
    }


@pytest.mark.parametrize("compare_with", ["phrase", "patch"])
def test_a_picture_has_colours_a_mask_and_numbers(
    client: Client, server: ComfyUI, compare_with: str
) -> None:
    outcome = client.run(graph(server, compare_with=compare_with, row=2, column=5))
    assert outcome.failure is None, outcome.failure
    [similarity] = outcome.outputs["patches"]["similarity"]
    assert [len(row) for row in similarity["grid"]] == [8] * 8
    alike = np.frombuffer(b64decode(similarity["alike"]), np.uint8).reshape(64, 64)
    assert (alike.argmax(1) == np.arange(64)).all()
    if compare_with == "patch":
        assert similarity["grid"][2][5] == max(max(row) for row in similarity["grid"])
    assert [int(text) for text in outcome.outputs["best"]["text"]] == list(range(64))
    assert [int(text) for text in outcome.outputs["slots best"]["text"]] == list(range(16))
    for node in ("colours", "mask"):
        [image] = outcome.outputs[node]["images"]
        assert Image.open(server.output / image["filename"]).size == (200, 100)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"compare_with": "patch", "row": 8}, "from 0 to 7"),
        ({"phrase": "  "}, "empty"),
        ({"phrase": "a dog " * 200}, "shorten it"),
    ],
)
def test_what_is_not_there_is_named_in_one_sentence(
    client: Client, server: ComfyUI, settings: dict, sentence: str
) -> None:
    failure = client.run(graph(server, **settings)).failure
    assert failure is not None
    assert failure.node_type == "PatchTokens"
    assert sentence in failure.sentence
    assert failure.sentence.count(".") == 1
