"""The workflow captions_by_another_model: core's TextGenerate and RT-DETR make training data.

Their weights are not here: stand-ins of other_pack take their place, and on a ComfyUI that is too
old for the workflow those of the two nodes too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs
from kosmos_dreambooth.dev.demo.run_workflows import missing_models, models_of, newer_comfyui
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from .conftest import Graph, images, node_schemas, noise_image, texts
from .node_schema import Schema, fields

WORKFLOW = ROOT / "workflows" / "captions_by_another_model.json"
SAVED = json.loads(WORKFLOW.read_text(encoding="utf-8"))
MODELS = [model for node in SAVED["nodes"] for model in models_of(node)]
STAND_INS = {"TextGenerate": "StandInTextGenerate", "RTDETR_detect": "StandInRTDETR"}
LOADERS = {"CLIPLoader": "StandInCaptioner", "UNETLoader": "StandInCheckpoint"}


def test_the_note_says_where_the_weights_are() -> None:
    [note] = [node["widgets_values"][0] for node in SAVED["nodes"] if "Note" in node["type"]]
    assert len(MODELS) == len(LOADERS)
    for model in MODELS:
        assert f"[{model['name']}]({model['url']}) in `models/{model['directory']}/`" in note


def test_without_the_weights_only_their_names_are_refused(server: ComfyUI, client: Client) -> None:
    if newer := newer_comfyui(SAVED, client):
        assert "TextGenerate" not in node_schemas(client)
        pytest.skip(f"needs {newer}")
    copy_inputs(server.input)
    assert missing_models(SAVED, client) == ", ".join(model["name"] for model in MODELS)
    failure = client.run(as_sent(server, WORKFLOW)).failure
    assert failure is not None
    assert failure.node_type in LOADERS
    assert failure.kind == "value_not_in_list"


def test_the_stand_ins_have_the_signatures_of_core(client: Client) -> None:
    schemas = node_schemas(client)
    if not {*STAND_INS} <= {*schemas}:
        pytest.skip("this ComfyUI has no TextGenerate")

    def signature(schema: Schema) -> list[object]:
        inputs = [(f.name, f.kind.removeprefix("COMFY_DYNAMIC")[:5]) for f in fields(schema)]
        return [*inputs, schema["output"], schema["output_is_list"]]

    for core, stand_in in STAND_INS.items():
        assert signature(schemas[core]) == signature(schemas[stand_in])


@pytest.mark.parametrize("by", ["stand-ins", "core"])
def test_texts_and_boxes_become_training_data(
    server: ComfyUI, client: Client, tmp_path: Path, by: str
) -> None:
    if by == "core" and not {*STAND_INS} <= {*node_schemas(client)}:
        pytest.skip("this ComfyUI has no TextGenerate")
    copy_inputs(server.input)
    text = WORKFLOW.read_text(encoding="utf-8")
    for core, stand_in in STAND_INS.items() if by == "stand-ins" else ():
        text = text.replace(f'"{core}"', f'"{stand_in}"')
    file = tmp_path / WORKFLOW.name
    file.write_text(text, encoding="utf-8")
    graph = Graph(as_sent(server, file))
    for key, node in graph.items():
        if node["class_type"] in LOADERS:
            graph.add(key, LOADERS[node["class_type"]])
    ids = {node["class_type"]: key for key, node in graph.items()}
    graph.set(ids["StandInCheckpoint"], ckpt_name="")
    graph.set(ids["SaveCaptions"], folder=by)
    titles = {node.get("_meta", {}).get("title"): key for key, node in graph.items()}
    graph.add("captions", "PreviewAny", source=[ids["SubjectDataset"], 1])
    graph.add("masks", "MasksOfSubject", subject=[ids["SubjectDataset"], 0])
    graph.add("white", "MaskToImage", mask=["masks", 0])
    graph.add("shown", "PreviewImage", images=["white", 0])
    outcome = graph.outputs(client)
    pictures = sorted(server.input.glob("sks_dog_[123].png"))
    expected = [
        f"A happy sks dog, brightness {round(np.asarray(Image.open(file).convert('RGB')).mean())}."
        for file in pictures
    ]
    assert len({*expected}) == 3
    folder = server.output / by
    saved = [file.read_text(encoding="utf-8").strip() for file in sorted(folder.glob("*.txt"))]
    assert saved == expected
    assert len([*folder.glob("*.png")]) == 3
    assert texts(outcome, "captions") == expected
    for file in folder.glob("*.json"):
        [phrase] = json.loads(file.read_text(encoding="utf-8"))["phrases"]
        assert "dog" in phrase["text"]
        assert len(phrase["boxes"]) == 1
    for mask in images(server, outcome, "shown"):
        white = np.asarray(mask)[..., 0] > 127
        half = white.shape[1] // 2
        assert white[:, :half].mean() > 0.9
        assert not white[:, half + 1 :].any()
    assert len(images(server, outcome, titles["Captions and boxes"])) == 3
    assert len(images(server, outcome, titles["Training images"])) == 1


def test_any_texts_of_core_s_qwen_become_captions(server: ComfyUI, client: Client) -> None:
    """Core's Qwen3-VL has random weights here, so its texts can be anything."""
    if "TextGenerate" not in node_schemas(client):
        pytest.skip("this ComfyUI has no TextGenerate")
    folder = server.input / "any_texts"
    folder.mkdir()
    for number, size in enumerate([(64, 96), (96, 64)]):
        noise_image(*size, number).save(folder / f"{number}.png")
    graph = Graph().add("read", "LoadImageDataSetFromFolder", folder=folder.name)
    settings = {"prompt": "Describe it.", "max_length": 4, "sampling_mode": "off"}
    graph.add("qwen", "RandomCaptioner")
    graph.add("text", "TextGenerate", clip=["qwen", 0], image=["read", 0], **settings)
    graph.add("written", "PreviewAny", source=["text", 0])
    inputs = {"image": ["read", 0], "captions": ["text", 0]}
    graph.add("save", "SaveCaptions", **inputs, folder=folder.name)
    graph.add("subject", "SubjectDataset", **inputs, trigger_word="in front")
    graph.add("captions", "PreviewAny", source=["subject", 1])
    outcome = graph.outputs(client)
    written = [text.strip() for text in texts(outcome, "written")]
    assert len({*written}) == 2
    files = sorted((server.output / folder.name).glob("*.txt"))
    assert [file.read_text(encoding="utf-8").strip() for file in files] == written
    for caption, text in zip(texts(outcome, "captions"), written, strict=True):
        assert caption.startswith("sks")
        assert text.split()[-1] in caption


def test_a_caption_too_few_is_named_and_one_for_a_batch_is_reported(client: Client) -> None:
    graph = Graph().add("two", "EmptyImage", width=64, height=64, batch_size=2)
    graph.add("three", "EmptyImage", width=64, height=64, batch_size=3)
    graph.add("text", "PrimitiveString", value="a dog")
    inputs = {"image": ["two", 0], "captions": ["text", 0]}
    graph.add("pair", "SubjectDataset", **inputs).add("report", "PreviewAny", source=["pair", 3])
    assert "All 2 images have the one caption" in texts(graph.outputs(client), "report")[0]
    for node in ("SubjectDataset", "SaveCaptions"):
        graph.add("more", node, image=["three", 0], captions=["pair", 1])
        graph.add("report", "PreviewAny", source=["more", 0])
        assert "3 images but 2 entries in the captions input" in graph.failure(client, "more")
