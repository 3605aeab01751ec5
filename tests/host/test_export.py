"""ExportModel: export Kosmos-2 to ONNX and load it again; errors are one sentence."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.export.export_formats import EXPORT_FORMATS

from .conftest import Graph, scene, texts


def export_graph(name: str, format_: str = "onnx", **load: object) -> Graph:
    return (
        Graph()
        .add("load", "LoadKosmos", **load)
        .add("export", "ExportModel", model=["load", 0], format=format_, name=name)
        .add("folder", "PreviewAny", source=["export", 0])
        .add("report", "PreviewAny", source=["export", 1])
    )


def caption_graph(server: ComfyUI, model: str, loras: str = "", decoding: str = "greedy") -> Graph:
    """Caption four scenes as one batch."""
    inputs = {"kosmos": ["load", 0], "image": ["images", 0], "decoding": decoding}
    return (
        Graph()
        .load_images(server.input, *(scene(60 + k) for k in range(4)), name="export")
        .add("load", "LoadKosmos", model=model, loras=loras)
        .add("caption", "GroundedCaption", **inputs, max_new_tokens=40, batch_size=3)
        .add("json", "PreviewAny", source=["caption", 5])
    )


def listed_models(client: Client) -> list[str]:
    return client.nodes()["LoadKosmos"]["input"]["required"]["model"][1]["options"]


@pytest.fixture(scope="module")
def exported(server: ComfyUI, client: Client) -> Path:
    """The folder of an export, made where a killed process left a temporary folder."""
    folder = server.base / "models" / "kosmos" / "taken"
    folder.mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path; from as_package import load;"
        "draft = load('shared.atomic_files').draft_path(Path(sys.argv[1])); draft.mkdir();"
        "(draft / 'config.json').write_text('{}')"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "out")], cwd=ROOT, check=True)
    [unfinished] = folder.iterdir()
    assert not any("taken" in name for name in listed_models(client))
    outcome = export_graph("taken/out").run(client)
    assert not unfinished.exists()
    assert outcome.failure is None, outcome.failure
    assert "captions have exactly the tokens of PyTorch" in texts(outcome, "report")[0]
    return Path(texts(outcome, "folder")[0])


def test_an_export_is_listed_and_captions_as_the_model_does(
    server: ComfyUI, client: Client, exported: Path
) -> None:
    assert exported == server.base / "models" / "kosmos" / "taken" / "out"
    assert "taken/out" in listed_models(client)
    onnx, torch = (
        [json.loads(text) for text in texts(caption_graph(server, name).outputs(client), "json")]
        for name in ("taken/out", "sandbox")
    )
    assert len(onnx) == 4
    assert onnx == torch


@pytest.mark.parametrize(
    ("settings", "node", "message"),
    [
        ({"decoding": "beam"}, "caption", "load the model that it was exported from"),
        ({"loras": "any.safetensors"}, "load", "merge the LoRA before the export"),
    ],
)
@pytest.mark.usefixtures("exported")
def test_what_an_export_cannot_do_is_one_sentence(
    server: ComfyUI, client: Client, settings: dict[str, str], node: str, message: str
) -> None:
    assert message in caption_graph(server, "taken/out", **settings).failure(client, node)


def test_damaged_and_other_exports_are_one_sentence(
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
    for name, message in (
        ("cut", "export the model again"),
        ("other", "choose another one"),
        ("blank", "export the model again"),
    ):
        sentence = caption_graph(server, f"taken/{name}").failure(client, "load")
        assert message in sentence
        assert sentence.count(".") <= 2  # one more is in export.json


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            export_graph("x")
            .add("full", "LoadKosmos")
            .add("load", "Quantize", model=["full", 0], keep="", rest="as it is"),
            "is quantized",
        ),
        (
            export_graph("x", "coreml").add("load", "LoadDiffusion", dtype="fp32"),
            "choose the format onnx",
        ),
        (export_graph("../outside"), "is no name inside"),
        (export_graph(" "), "is no name inside"),
    ],
    ids=["quantized", "diffusion model to Core ML", "outside", "no name"],
)
def test_a_wrong_input_is_one_sentence(
    server: ComfyUI, client: Client, graph: Graph, message: str
) -> None:
    assert message in graph.failure(client, "export")
    assert not (server.base / "models" / "kosmos" / "x").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is not None, reason="LiteRT's converter is installed"
)
def test_a_missing_exporter_is_named_with_the_command(client: Client) -> None:
    sentence = export_graph("x", "litert").failure(client, "export")
    assert f"pip install {' '.join(EXPORT_FORMATS['litert'].packages)}" in sentence


@pytest.mark.usefixtures("exported")
def test_an_export_is_not_exported_again(client: Client) -> None:
    sentence = export_graph("x", model="taken/out").failure(client, "export")
    assert "is an export itself" in sentence


def test_cancel_leaves_nothing_half_written(server: ComfyUI, client: Client) -> None:
    outcome = export_graph("stopped").run(client, cancel_when=lambda so_far: bool(so_far.steps))
    assert outcome.interrupted
    assert not list((server.base / "models" / "kosmos").glob("*stopped*"))
