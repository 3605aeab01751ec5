"""A model that was saved is found and loaded again, and stays inside ComfyUI's folders."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client


def save(name: str, kind: str = "diffusers", model: str = "sandbox", dtype: str = "fp16") -> dict:
    return {
        "load": {"class_type": "LoadDiffusion", "inputs": {"model": model, "dtype": dtype}},
        "save": {
            "class_type": "SaveDiffusion",
            "inputs": {"diffusion": ["load", 0], "format": kind, "name": name},
        },
        "say": {"class_type": "PreviewAny", "inputs": {"source": ["save", 0]}},
    }


def test_it_is_loaded_again_and_never_overwritten(server: ComfyUI, client: Client) -> None:
    folder = server.base / "models" / "diffusers" / "kept"
    for dtype, name in (("fp16", "mine"), ("fp32", "mine_2")):
        outcome = client.run(save("kept/mine", dtype=dtype))
        assert outcome.failure is None
        assert outcome.outputs["say"]["text"] == [str(folder / name)]
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "mine_2"]
    paint = {
        "load": save("", model="kept/mine")["load"],
        "paint": {
            "class_type": "CFGSampler",
            "inputs": {
                "diffusion": ["load", 0],
                "prompt": "a dog",
                "negative": "",
                "steps": 1,
                "guidance": 1.0,
                "scheduler": "ddim",
                "seed": 0,
                "count": 1,
                "width": 0,
                "height": 0,
            },
        },
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["paint", 0]}},
    }
    assert client.run(paint).failure is None


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (save("small", "checkpoint"), "sandbox is no Stable Diffusion 1.x"),
        (save("../outside"), "is no name inside"),
        (save("/tmp/outside"), "is no name inside"),  # noqa: S108
        (save(" "), "is no name inside"),
    ],
)
def test_an_impossible_wish_ends_in_one_sentence(
    client: Client, graph: dict, sentence: str
) -> None:
    failure = client.run(graph).failure
    assert failure is not None
    assert failure.node == "save"
    assert sentence in failure.sentence
    assert "\n" not in failure.sentence
