"""SaveDiffusion: a saved model is found and loaded again, and stays inside ComfyUI's folders."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client

from .conftest import Graph, texts


def save_graph(name: str, format_: str = "diffusers", dtype: str = "fp16") -> Graph:
    return (
        Graph()
        .add("load", "LoadDiffusion", dtype=dtype)
        .add("save", "SaveDiffusion", diffusion=["load", 0], format=format_, name=name)
        .add("path", "PreviewAny", source=["save", 0])
    )


def test_a_saved_model_is_loaded_again_and_never_overwritten(
    server: ComfyUI, client: Client
) -> None:
    folder = server.base / "models" / "diffusers" / "kept"
    for dtype, name in (("fp16", "mine"), ("fp32", "mine_2")):
        outcome = save_graph("kept/mine", dtype=dtype).outputs(client)
        assert texts(outcome, "path") == [str(folder / name)]
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "mine_2"]
    (
        Graph()
        .add("load", "LoadDiffusion", model="kept/mine", dtype="fp16")
        .add("sample", "CFGSampler", diffusion=["load", 0], steps=1, guidance=1.0)
        .add("show", "PreviewImage", images=["sample", 0])
        .outputs(client)
    )


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (save_graph("small", "checkpoint"), "sandbox is no Stable Diffusion 1.x"),
        (save_graph("../outside"), "is no name inside"),
        (save_graph("/tmp/outside"), "is no name inside"),  # noqa: S108
        (save_graph(" "), "is no name inside"),
    ],
)
def test_a_wrong_name_or_format_is_one_sentence(client: Client, graph: Graph, message: str) -> None:
    assert message in graph.failure(client, "save")
