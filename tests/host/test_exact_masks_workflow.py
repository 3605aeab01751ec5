"""The workflow exact_masks: boxes of a phrase, SAM3, and a training set with SAM3's masks.

SAM3's weights are not here: with them absent the prompt is refused for their name alone, and with
the stand-ins of other_pack it runs to its end, through core's own SAM3_Detect where there is one.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.dev.demo.comfy_cli import as_sent
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.playground import copy_inputs
from kosmos_dreambooth.dev.demo.run_workflows import missing_models, models_of, newer_comfyui
from kosmos_dreambooth.dev.demo.server_client import Client

from .conftest import Graph, images, node_schemas, texts
from .node_schema import Schema, fields

WORKFLOW = ROOT / "workflows" / "exact_masks.json"
SAVED = json.loads(WORKFLOW.read_text(encoding="utf-8"))
[WEIGHTS] = [model["name"] for node in SAVED["nodes"] for model in models_of(node)]
SIZE = 256


def sent(server: ComfyUI, folder: Path, **stand_ins: str) -> Graph:
    """The workflow in the API format, with other types of nodes in place of some."""
    copy_inputs(server.input)
    text = WORKFLOW.read_text(encoding="utf-8")
    for kind, stand_in in stand_ins.items():
        text = text.replace(f'"{kind}"', f'"{stand_in}"')
    file = folder / WORKFLOW.name
    file.write_text(text, encoding="utf-8")
    return Graph(as_sent(server, file))


def node_of(graph: Graph, kind: str) -> str:
    [node_id] = [key for key, node in graph.items() if node["class_type"] == kind]
    return node_id


@pytest.fixture
def needs_sam3(client: Client) -> None:
    """Skip on a ComfyUI that is too old for the workflow, as its file says."""
    if newer := newer_comfyui(SAVED, client):
        assert "SAM3_Detect" not in node_schemas(client)
        pytest.skip(f"needs {newer}")


def test_the_note_says_where_the_weights_are() -> None:
    [note] = [node["widgets_values"][0] for node in SAVED["nodes"] if "Note" in node["type"]]
    [model] = [model for node in SAVED["nodes"] for model in models_of(node)]
    assert f"[{model['name']}]({model['url']}) in `models/{model['directory']}/`" in note


@pytest.mark.usefixtures("needs_sam3")
def test_without_the_weights_only_their_name_is_refused(
    server: ComfyUI, client: Client, tmp_path: Path
) -> None:
    assert missing_models(SAVED, client) == WEIGHTS
    graph = sent(server, tmp_path)
    failure = client.run(graph).failure
    assert failure is not None
    assert failure.node_type == "CheckpointLoaderSimple"
    assert failure.kind == "value_not_in_list"
    assert WEIGHTS in failure.sentence
    file = server.base / "models" / "checkpoints" / WEIGHTS
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    try:
        failure = client.run(graph).failure
    finally:
        file.unlink()
    assert failure is not None
    assert failure.node_type == "CheckpointLoaderSimple"
    assert not failure.kind.startswith("value_not")  # all of it was accepted, and begun


@pytest.mark.usefixtures("needs_sam3")
def test_the_stand_in_has_the_signature_of_sam3(client: Client) -> None:
    schemas = node_schemas(client)

    def signature(schema: Schema) -> list[object]:
        inputs = [
            [
                (field.name, field.kind, field.is_widget and field.default)
                for field in fields(schema, s)
            ]
            for s in ("required", "optional")
        ]
        return [*inputs, schema["output"], schema["output_name"], schema["output_is_list"]]

    assert signature(schemas["StandInSAM3"]) == signature(schemas["SAM3_Detect"])
    given = schemas["CheckpointLoaderSimple"]["output"]
    assert schemas["StandInCheckpoint"]["output"] == given


@pytest.mark.parametrize("sam3", ["StandInSAM3", "SAM3_Detect"])
@pytest.mark.parametrize("one_by_one", [False, True], ids=["a batch", "a list"])
def test_the_subject_gets_the_mask_of_each_image(
    server: ComfyUI, client: Client, tmp_path: Path, sam3: str, one_by_one: bool
) -> None:
    if sam3 not in node_schemas(client):
        pytest.skip(f"this ComfyUI has no {sam3}")
    graph = sent(server, tmp_path, SAM3_Detect=sam3, CheckpointLoaderSimple="StandInCheckpoint")
    ground, subject = node_of(graph, "GroundPhrase"), node_of(graph, "SubjectDataset")
    if one_by_one:
        batch = graph[ground]["inputs"]["image"]
        graph.add("list", "RebatchImages", images=batch, batch_size=1)
        for kind in ("GroundPhrase", sam3, "SubjectDataset"):
            graph.set(node_of(graph, kind), image=["list", 0])
    graph.add("boxes", "PreviewAny", source=[ground, 1])
    graph.add("masks", "MasksOfSubject", subject=[subject, 0])
    graph.add("white", "MaskToImage", mask=["masks", 0])
    graph.add("shown", "PreviewImage", images=["white", 0])
    outcome = graph.outputs(client)
    boxes = [ast.literal_eval(text) for text in texts(outcome, "boxes")]
    assert [len(of_image) for of_image in boxes] == [1, 1, 1]
    assert len({str(of_image) for of_image in boxes}) == 3
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for picture, [(x0, y0, x1, y1)] in zip(images(server, outcome, "shown"), boxes, strict=True):
        across = (2 * x - x0 - x1) / (x1 - x0)
        down = (2 * y - y0 - y1) / (y1 - y0)
        inside, mask = across**2 + down**2 <= 1, np.asarray(picture)[..., 0] > 127
        overlap = (inside & mask).sum() / (inside | mask).sum()
        assert overlap > (0.97 if sam3 == "SAM3_Detect" else 0.9999)
    titles = {node.get("_meta", {}).get("title"): key for key, node in graph.items()}
    [sheet] = images(server, outcome, titles["Training images"])
    assert sheet.width > SIZE


def test_a_mask_for_each_box_is_refused_in_one_sentence(
    server: ComfyUI, client: Client, tmp_path: Path
) -> None:
    graph = sent(
        server, tmp_path, SAM3_Detect="StandInSAM3", CheckpointLoaderSimple="StandInCheckpoint"
    )
    graph.set(node_of(graph, "StandInSAM3"), individual_masks=True)
    graph.set(node_of(graph, "GroundPhrase"), phrases="a dog\na dog", verify=False)
    assert "one mask for each image" in graph.failure(client, "SubjectDataset")
