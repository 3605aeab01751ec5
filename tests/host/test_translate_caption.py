"""TranslateCaption with a small NLLB of random weights."""

from __future__ import annotations

import json

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client

from tests.kosmos.translators import TEXTS, write_nllb

from .conftest import Graph, scene, texts

DOG_AND_HOUSE = 9170
"""The seed of a scene with a red dog and a blue house."""


def translate_graph(server: ComfyUI, translator: str, language: str) -> Graph:
    ground = {"phrases": "a red dog\na blue house", "verify": False}
    return (
        Graph()
        .load_images(server.input, scene(DOG_AND_HOUSE, count=2), name="translate")
        .add("model", "LoadKosmos")
        .add("ground", "GroundPhrase", kosmos=["model", 0], image=["images", 0], **ground)
        .add("translate", "TranslateCaption", grounding=["ground", 0])
        .set("translate", translator=translator, language=language)
        .add("caption", "PreviewAny", source=["translate", 0])
    )


@pytest.fixture(scope="module", autouse=True)
def bert(server: ComfyUI, client: Client) -> None:
    """A model that does not translate, the only one in models/translation at first."""
    folder = server.base / "models" / "translation" / "no-translator"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    choices = client.nodes()["TranslateCaption"]["input"]["required"]["translator"][1]["options"]
    assert choices == ["none", "no-translator"]


@pytest.mark.parametrize(
    ("translator", "message"), [("none", "No translator is chosen"), ("no-translator", '"bert"')]
)
def test_a_missing_or_wrong_translator_is_one_sentence(
    client: Client, server: ComfyUI, translator: str, message: str
) -> None:
    graph = translate_graph(server, translator, "German")
    assert message in graph.failure(client, "TranslateCaption")


def test_an_nllb_translates_and_keeps_the_boxes(client: Client, server: ComfyUI) -> None:
    write_nllb(server.base / "models" / "translation" / "tiny-nllb")
    house = {"image": ["images", 0], "grounding": ["translate", 1]}
    graph = (
        translate_graph(server, "tiny-nllb", "French")
        .add("house", "GroundingToMask", **house, select="phrase", phrase="maison")
        .add("boxes", "PreviewAny", source=["house", 2])
    )
    outcome = graph.outputs(client)
    assert texts(outcome, "caption") == [TEXTS["a red dog, a blue house"][1]]
    (box,) = json.loads(texts(outcome, "boxes")[0])
    assert 0 <= box[0] < box[2] <= 112
