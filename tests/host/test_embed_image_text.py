"""Search by text and by picture inside a real ComfyUI, on scenes whose truth is known."""

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

SCENES = [draw_sample(HELD_OUT + 900_000_000 + k, 112) for k in range(6)]
TEXTS = [plain_text(brief(sample.scene, sample.boxes)) for sample in SCENES]


def graph(server: ComfyUI, **settings: object) -> dict:
    """Embed six scenes and their captions, and search the scenes by the captions."""
    for k, sample in enumerate(SCENES):
        Image.fromarray(sample.pixels).save(server.input / f"scene_{k}.png")
    nodes: dict[str, dict] = {
        f"load{k}": {"class_type": "LoadImage", "inputs": {"image": f"scene_{k}.png"}}
        for k in range(len(SCENES))
    }
    nodes["batch1"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["load0", 0], "image2": ["load1", 0]},
    }
    for k in range(2, len(SCENES)):
        nodes[f"batch{k}"] = {
            "class_type": "ImageBatch",
            "inputs": {"image1": [f"batch{k - 1}", 0], "image2": [f"load{k}", 0]},
        }
    nodes["kosmos"] = {
        "class_type": "LoadKosmos",
        "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
    }
    wanted = {
        "method": "decoder",
        "text": "\n".join(TEXTS),
        "prompt": "",
        "dual_encoder": "none",
        "batch_size": 0,
        "kosmos": ["kosmos", 0],
        "image": [f"batch{len(SCENES) - 1}", 0],
        **settings,
    }
    nodes["embed"] = {
        "class_type": "EmbedImageText",
        "inputs": {key: value for key, value in wanted.items() if value is not None},
    }
    nodes["compare"] = {
        "class_type": "CompareEmbeddings",
        "inputs": {"rows": ["embed", 1], "columns": ["embed", 0], "top": 2},
    }
    for name, slot in (("best", 0), ("index", 1), ("ranking", 2), ("numbers", 3)):
        nodes[name] = {"class_type": "PreviewAny", "inputs": {"source": ["compare", slot]}}
    nodes["matrix"] = {"class_type": "PreviewImage", "inputs": {"images": ["compare", 4]}}
    nodes["found"] = {
        "class_type": "ImageFromBatch",
        "inputs": {
            "image": [f"batch{len(SCENES) - 1}", 0],
            "batch_index": ["compare", 1],
            "length": 1,
        },
    }
    nodes["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["found", 0]}}
    return nodes


@pytest.mark.parametrize("method", ["decoder", "likelihood"])
def test_texts_find_their_pictures(client: Client, server: ComfyUI, method: str) -> None:
    outcome = client.run(graph(server, method=method))
    assert outcome.failure is None, outcome.failure
    index = [int(text) for text in outcome.outputs["index"]["text"]]
    assert sum(found == k for k, found in enumerate(index)) >= 4  # a sixth by chance
    assert outcome.outputs["best"]["text"] == [f"picture {k + 1}" for k in index]
    assert len(outcome.outputs["shown"]["images"]) == len(SCENES)
    numbers = json.loads(outcome.outputs["numbers"]["text"][0])
    assert numbers["rows"] == TEXTS
    [panel] = outcome.outputs["compare"]["compared"]
    assert panel["values"] == numbers["similarities"]
    assert panel["rows"] == {"names": TEXTS, "count": len(TEXTS), "strip": None}
    with Image.open(server.base / "temp" / panel["columns"]["strip"]["filename"]) as strip:
        assert strip.size == (96, 96 * len(SCENES))
    for row, k, told in zip(
        numbers["similarities"], index, outcome.outputs["ranking"]["text"], strict=True
    ):
        assert row[k] == max(row)
        assert told.count("\n") == 2
    [matrix] = outcome.outputs["matrix"]["images"]
    assert matrix["filename"]
    steps = [step for step in outcome.steps if step.node == "embed"]
    assert steps[-1].done == steps[-1].total


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kosmos": None}, "connect Load Kosmos-2 to kosmos"),
        ({"text": " \n", "image": None}, "connect an image, or write a text"),
        ({"method": "likelihood", "text": ""}, "needs both"),
        ({"method": "dual encoder"}, "choose one in dual_encoder"),
        ({"text": "a red dog " * 200}, "shorten it"),
        ({"reference": ["load0", 0]}, "too few to learn from"),
        ({"image": None}, "No picture was embedded"),
    ],
)
def test_what_is_missing_is_named_in_one_sentence(
    client: Client, server: ComfyUI, settings: dict, sentence: str
) -> None:
    failure = client.run(graph(server, **settings)).failure
    assert failure is not None
    assert sentence in failure.sentence
    assert failure.sentence.count(".") - failure.sentence.count("...") * 3 == 1


def test_a_clip_in_the_models_folder_embeds(client: Client, server: ComfyUI) -> None:
    tokenizer = clip_tokenizer()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    pixels = {"image_size": 32, "patch_size": 16}
    model = CLIPModel(
        CLIPConfig(
            text_config={**size, **words, "num_attention_heads": 2},
            vision_config={**size, **pixels, "num_attention_heads": 2},
        )
    )
    folder = server.base / "models" / "clip" / "tiny-clip"
    model.save_pretrained(folder)
    eye = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(eye, tokenizer).save_pretrained(folder)
    offered = client.nodes()["EmbedImageText"]["input"]["required"]["dual_encoder"]
    assert "tiny-clip" in offered[1]["options"]
    outcome = client.run(
        graph(server, method="dual encoder", dual_encoder="tiny-clip", kosmos=None)
    )
    assert outcome.failure is None, outcome.failure
    numbers = json.loads(outcome.outputs["numbers"]["text"][0])["similarities"]
    assert all(-1.001 <= value <= 1.001 for row in numbers for value in row)


def test_embeddings_of_two_methods_are_not_compared(client: Client, server: ComfyUI) -> None:
    workflow = graph(server)
    workflow["other"] = {
        "class_type": "EmbedImageText",
        "inputs": {**workflow["embed"]["inputs"], "method": "likelihood"},
    }
    workflow["compare"]["inputs"]["columns"] = ["other", 0]
    failure = client.run(workflow).failure
    assert failure is not None
    assert failure.node_type == "CompareEmbeddings"
    assert "make both with the same method" in failure.sentence
