"""EmbedImageText and CompareEmbeddings: search images by text, on scenes with known captions."""

from __future__ import annotations

import json

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.dev.sandbox.tokenizers import clip_tokenizer
from kosmos_dreambooth.sandbox.world.captions import brief, plain_text
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip import CLIPImageProcessor

from .conftest import Graph, texts

SCENES = [draw_sample(HELD_OUT + 900_000_000 + k, 112) for k in range(6)]
CAPTIONS = [plain_text(brief(sample.scene, sample.boxes)) for sample in SCENES]


def search_graph(server: ComfyUI, **settings: object) -> Graph:
    """Embed six scenes and their captions, and rank the scenes by the captions.

    An input that is None is left unconnected.
    """
    inputs = {"text": "\n".join(CAPTIONS), "kosmos": ["kosmos", 0], "image": ["images", 0]}
    inputs = {key: value for key, value in (inputs | settings).items() if value is not None}
    found = {"image": ["images", 0], "batch_index": ["compare", 1]}
    scenes = (Image.fromarray(sample.pixels) for sample in SCENES)
    return (
        Graph()
        .load_images(server.input, *scenes, name="scene")
        .add("kosmos", "LoadKosmos")
        .add("embed", "EmbedImageText", **inputs)
        .add("compare", "CompareEmbeddings", rows=["embed", 1], columns=["embed", 0], top=2)
        .add("best", "PreviewAny", source=["compare", 0])
        .add("index", "PreviewAny", source=["compare", 1])
        .add("ranking", "PreviewAny", source=["compare", 2])
        .add("json", "PreviewAny", source=["compare", 3])
        .add("matrix", "PreviewImage", images=["compare", 4])
        .add("found", "ImageFromBatch", **found)
        .add("show", "PreviewImage", images=["found", 0])
    )


@pytest.mark.parametrize("method", ["decoder", "likelihood"])
def test_captions_find_their_images(client: Client, server: ComfyUI, method: str) -> None:
    outcome = search_graph(server, method=method).outputs(client)
    index = [int(text) for text in texts(outcome, "index")]
    assert sum(found == k for k, found in enumerate(index)) >= 4  # a sixth by chance
    for text, k in zip(texts(outcome, "best"), index, strict=True):
        assert text.endswith(f" {k + 1}")
    assert len(outcome.outputs["show"]["images"]) == len(SCENES)
    table = json.loads(texts(outcome, "json")[0])
    assert table["rows"] == CAPTIONS
    [panel] = outcome.outputs["compare"]["compared"]
    assert panel["values"] == table["similarities"]
    assert panel["rows"] == {"names": CAPTIONS, "count": len(CAPTIONS), "strip": None}
    with Image.open(server.base / "temp" / panel["columns"]["strip"]["filename"]) as strip:
        assert strip.size == (96, 96 * len(SCENES))
    rankings = texts(outcome, "ranking")
    for row, k, ranking in zip(table["similarities"], index, rankings, strict=True):
        assert row[k] == max(row)
        assert ranking.count("\n") == 2
    [matrix] = outcome.outputs["matrix"]["images"]
    assert matrix["filename"]
    steps = [step for step in outcome.steps if step.node == "embed"]
    assert steps[-1].done == steps[-1].total


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kosmos": None}, "connect Load Kosmos-2 to kosmos"),
        ({"text": " \n", "image": None}, "connect an image, or write a text"),
        ({"method": "likelihood", "text": ""}, "needs both"),
        ({"method": "dual encoder"}, "choose one in dual_encoder"),
        ({"text": "a red dog " * 200}, "shorten it"),
        ({"reference": ["scene 1", 0]}, "too few"),
    ],
)
def test_a_missing_input_is_one_sentence(
    client: Client, server: ComfyUI, settings: dict, message: str
) -> None:
    assert message in search_graph(server, **settings).failure(client, "EmbedImageText")


def test_images_that_were_not_embedded_cannot_be_compared(client: Client, server: ComfyUI) -> None:
    assert " was embedded" in search_graph(server, image=None).failure(client, "CompareEmbeddings")


def test_a_clip_in_the_models_folder_embeds(client: Client, server: ComfyUI) -> None:
    tokenizer = clip_tokenizer()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2}
    vocabulary = {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    pixels = {"image_size": 32, "patch_size": 16}
    model = CLIPModel(
        CLIPConfig(text_config={**size, **vocabulary}, vision_config={**size, **pixels})
    )
    folder = server.base / "models" / "clip" / "tiny-clip"
    model.save_pretrained(folder)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    choices = client.nodes()["EmbedImageText"]["input"]["required"]["dual_encoder"][1]["options"]
    assert "tiny-clip" in choices
    graph = search_graph(server, method="dual encoder", dual_encoder="tiny-clip", kosmos=None)
    [table] = texts(graph.outputs(client), "json")
    for row in json.loads(table)["similarities"]:
        assert all(-1.001 <= value <= 1.001 for value in row)


def test_embeddings_of_two_methods_are_not_compared(client: Client, server: ComfyUI) -> None:
    graph = search_graph(server)
    graph.add("other", "EmbedImageText", **{**graph["embed"]["inputs"], "method": "likelihood"})
    graph.set("compare", columns=["other", 0])
    assert "make both with the same method" in graph.failure(client, "CompareEmbeddings")
