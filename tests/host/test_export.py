"""A captioner leaves PyTorch, and the same nodes run it again; what cannot be is one sentence."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.export.export_formats import EXPORT_FORMATS
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image

Graph = dict[str, dict]


def load(model: str = "sandbox", loras: str = "") -> dict:
    given = {"model": model, "dtype": "auto", "attention": "auto", "loras": loras}
    return {"class_type": "LoadKosmos", "inputs": given}


def export(name: str, format_: str = "onnx", source: dict | None = None) -> Graph:
    given = {"model": ["load", 0], "format": format_, "precision": "fp32", "name": name}
    return {
        "load": source or load(),
        "export": {"class_type": "ExportModel", "inputs": given},
        "folder": {"class_type": "PreviewAny", "inputs": {"source": ["export", 0]}},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["export", 1]}},
    }


def describe(server: ComfyUI, model: str, decoding: str = "greedy", **more: str) -> Graph:
    """Four scenes as one batch, described."""
    graph: Graph = {"load": load(model, **more)}
    for k in range(4):
        picture = Image.fromarray(draw_sample(HELD_OUT + 60 + k, 112).pixels)
        picture.save(server.input / f"export_{k}.png")
        graph[f"image{k}"] = {
            "class_type": "LoadImage",
            "inputs": {"image": f"export_{k}.png"},
        }
    for left, right, both in (("image0", "image1", "two"), ("image2", "image3", "more")):
        graph[both] = {
            "class_type": "ImageBatch",
            "inputs": {"image1": [left, 0], "image2": [right, 0]},
        }
    graph["all"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["two", 0], "image2": ["more", 0]},
    }
    graph["describe"] = {
        "class_type": "GroundedCaption",
        "inputs": {
            "kosmos": ["load", 0],
            "image": ["all", 0],
            "style": "brief",
            "prompt": "",
            "max_new_tokens": 40,
            "batch_size": 3,
            "decoding": decoding,
        },
    }
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["describe", 5]}}
    return graph


@pytest.fixture(scope="module")
def exported(server: ComfyUI, client: Client) -> Path:
    left = server.base / "models" / "kosmos" / "taken" / "out.1.tmp"  # by a killed process
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    known = client.nodes()["LoadKosmos"]["input"]["required"]["model"][1]["options"]
    assert not any("taken" in name for name in known)
    outcome = client.run(export("taken/out"))
    assert not left.exists()
    assert outcome.failure is None, outcome.failure
    assert "captions have exactly the tokens of PyTorch" in outcome.outputs["report"]["text"][0]
    return Path(outcome.outputs["folder"]["text"][0])


def test_the_loader_lists_an_export_and_it_writes_the_same(
    server: ComfyUI, client: Client, exported: Path
) -> None:
    assert exported == server.base / "models" / "kosmos" / "taken" / "out"
    assert "taken/out" in client.nodes()["LoadKosmos"]["input"]["required"]["model"][1]["options"]
    ours, theirs = (client.run(describe(server, name)) for name in ("taken/out", "sandbox"))
    assert ours.failure is None, ours.failure
    told = [json.loads(text) for text in ours.outputs["text"]["text"]]
    assert len(told) == 4
    assert told == [json.loads(text) for text in theirs.outputs["text"]["text"]]


@pytest.mark.parametrize(
    ("more", "node", "remedy"),
    [
        ({"decoding": "beam"}, "describe", "load the model that it was exported from"),
        ({"loras": "any.safetensors"}, "load", "merge before you export"),
    ],
)
def test_what_an_export_cannot_do_is_one_sentence(
    server: ComfyUI, client: Client, exported: Path, more: dict[str, str], node: str, remedy: str
) -> None:
    failure = client.run(describe(server, "taken/out", **more)).failure
    assert failure is not None
    assert (failure.node, remedy in failure.sentence) == (node, True), failure.sentence


def test_exports_that_are_damaged_or_of_another_kind_are_one_sentence(
    server: ComfyUI, client: Client, exported: Path
) -> None:
    cut = Path(shutil.copytree(exported, exported.parent / "cut"))
    whole = (cut / "decoder.onnx").read_bytes()
    (cut / "decoder.onnx").write_bytes(whole[: len(whole) // 2])
    other = Path(shutil.copytree(exported, exported.parent / "other"))
    manifest = json.loads((other / "export.json").read_text())
    (other / "export.json").write_text(json.dumps(manifest | {"format": "coreml"}))
    blank = Path(shutil.copytree(exported, exported.parent / "blank"))
    (blank / "export.json").write_text("{")
    for name, remedy in (
        ("cut", "export the model again"),
        ("other", "choose another one"),
        ("blank", "export the model again"),
    ):
        failure = client.run(describe(server, f"taken/{name}")).failure
        assert failure is not None
        assert (failure.node, remedy in failure.sentence) == ("load", True), failure.sentence
        assert failure.sentence.count(".") <= 2  # one more is in export.json


QUANTIZED = {
    "class_type": "Quantize",
    "inputs": {"model": ["plain", 0], "format": "int8", "keep": "", "rest": "as it is"},
}
DIFFUSION = {"class_type": "LoadDiffusion", "inputs": {"model": "sandbox", "dtype": "fp32"}}


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (export("x", source=QUANTIZED) | {"plain": load()}, "is quantized"),
        (export("x", "coreml", source=DIFFUSION), "choose the format onnx"),
        (export("../outside"), "is no name inside"),
        (export(" "), "is no name inside"),
    ],
    ids=["quantized", "no Core ML of a painter", "outside", "no name"],
)
def test_an_impossible_wish_is_one_sentence(
    server: ComfyUI, client: Client, graph: Graph, sentence: str
) -> None:
    failure = client.run(graph).failure
    assert failure is not None
    assert (failure.node, sentence in failure.sentence) == ("export", True), failure.sentence
    assert "\n" not in failure.sentence
    assert not (server.base / "models" / "kosmos" / "x").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is not None, reason="LiteRT's converter is here"
)
def test_a_missing_exporter_is_one_sentence_with_the_command(client: Client) -> None:
    failure = client.run(export("x", "litert")).failure
    assert failure is not None
    assert f"pip install {' '.join(EXPORT_FORMATS['litert'].packages)}" in failure.sentence


def test_an_export_of_an_export_is_refused(client: Client, exported: Path) -> None:
    failure = client.run(export("x", source=load("taken/out"))).failure
    assert failure is not None
    assert "is an export itself" in failure.sentence


def test_cancel_leaves_nothing_half_written(server: ComfyUI, client: Client) -> None:
    outcome = client.run(export("stopped"), cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert not list((server.base / "models" / "kosmos").glob("*stopped*"))
