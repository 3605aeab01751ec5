"""Captions go to disk from a real ComfyUI: beside pictures, in sets, for whole folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, Outcome
from kosmos_dreambooth.dev.sandbox.scene_pool import draw_sample
from kosmos_dreambooth.sandbox.world.scene import HELD_OUT
from PIL import Image

Workflow = dict[str, dict]
MODEL = {
    "class_type": "LoadKosmos",
    "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
}


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_sample(HELD_OUT + seed, 112).pixels).save(path)


def saving(server: ComfyUI, **settings: object) -> Workflow:
    """Caption two scenes and save them."""
    for k in range(2):
        draw(server.input / f"save_{k}.png", 79 + k)
    return {
        "model": MODEL,
        "one": {"class_type": "LoadImage", "inputs": {"image": "save_0.png"}},
        "two": {"class_type": "LoadImage", "inputs": {"image": "save_1.png"}},
        "both": {
            "class_type": "ImageBatch",
            "inputs": {"image1": ["one", 0], "image2": ["two", 0]},
        },
        "caption": {
            "class_type": "GroundedCaption",
            "inputs": {
                "kosmos": ["model", 0],
                "image": ["both", 0],
                "style": "brief",
                "prompt": "",
                "max_new_tokens": 30,
                "batch_size": 0,
            },
        },
        "save": {
            "class_type": "SaveCaptions",
            "inputs": {
                "image": ["both", 0],
                "grounding": ["caption", 1],
                "folder": "set",
                "format": "txt and json",
                "save_images": True,
                "coco": True,
                "overwrite": False,
                **settings,
            },
        },
    }


def refusal(outcome: Outcome, node: str) -> str:
    failure = outcome.failure
    assert failure is not None
    assert failure.node_type == node
    assert failure.kind.endswith("UserError")
    return failure.sentence


def test_a_set_is_saved_and_added_to(client: Client, server: ComfyUI) -> None:
    outcome = client.run(saving(server))
    assert outcome.failure is None, outcome.failure
    place = server.output / "set"
    assert {path.name for path in place.iterdir()} == {
        "coco_captions.json",
        "coco_instances.json",
        *(f"picture_0000{k}.{end}" for k in (1, 2) for end in ("png", "txt", "json")),
    }
    told = json.loads((place / "picture_00001.json").read_text(encoding="utf-8"))
    assert told["caption"] == (place / "picture_00001.txt").read_text(encoding="utf-8").strip()
    original = Image.open(server.input / "save_0.png").convert("RGB")
    assert Image.open(place / "picture_00001.png").tobytes() == original.tobytes()
    more = client.run(saving(server, coco=False, format="txt"))
    assert more.failure is None, more.failure
    assert (place / "picture_00004.txt").exists()


def test_named_captions_lie_beside_their_pictures_and_are_safe(
    client: Client, server: ComfyUI
) -> None:
    named = {"files": "save_0.png\nsave_1.png", "beside_inputs": True, "coco": False}
    assert client.run(saving(server, format="txt", **named)).failure is None
    assert (server.input / "save_0.txt").exists()
    (server.input / "save_0.txt").write_text("mine")
    again = client.run(saving(server, format="txt and json", **named))
    assert "overwrite" in refusal(again, "SaveCaptions")
    assert (server.input / "save_0.txt").read_text() == "mine"
    assert not (server.input / "save_0.json").exists()


def test_a_picture_that_is_there_is_not_replaced(client: Client, server: ComfyUI) -> None:
    mine = server.output / "mine" / "dog.png"
    draw(mine, 5)
    before = mine.read_bytes()
    named = {"folder": "mine", "files": "dog.png\ncat.png", "coco": False}
    assert "overwrite" in refusal(client.run(saving(server, **named)), "SaveCaptions")
    assert [path.name for path in mine.parent.iterdir()] == ["dog.png"]
    assert client.run(saving(server, save_images=False, **named)).failure is None
    assert mine.read_bytes() == before
    assert client.run(saving(server, overwrite=True, **named)).failure is None
    assert mine.read_bytes() != before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"folder": "../elsewhere"}, "no name inside"),
        ({"files": "one.png"}, "2 images but 1 names"),
        ({"beside_inputs": True}, "name them in files"),
        ({"beside_inputs": True, "files": "save_0.png\ngone.png"}, '"gone.png"'),
        ({"beside_inputs": True, "files": "save_0.png\n../gone.png"}, "no name inside"),
        ({"folder": "taken/set"}, "could not be written"),
    ],
)
def test_a_place_that_is_none_is_one_sentence(
    client: Client, server: ComfyUI, settings: dict[str, object], words: str
) -> None:
    (server.output / "taken").write_text("a file where a folder is wanted")
    assert words in refusal(client.run(saving(server, **settings)), "SaveCaptions")


def captioning(folder: str, **settings: object) -> Workflow:
    """Caption a folder, and show which files have a caption and the report."""
    return {
        "model": MODEL,
        "folder": {
            "class_type": "CaptionFolder",
            "inputs": {
                "kosmos": ["model", 0],
                "folder": folder,
                "style": "brief",
                "prompt": "",
                "format": "txt",
                "max_new_tokens": 30,
                "overwrite": False,
                "batch_size": 0,
                **settings,
            },
        },
        "files": {"class_type": "PreviewAny", "inputs": {"source": ["folder", 0]}},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["folder", 2]}},
    }


def test_a_folder_is_captioned_and_new_pictures_are_seen(client: Client, server: ComfyUI) -> None:
    for k in range(3):
        draw(server.input / "holiday" / f"{k}.png", 90 + k)
    (server.input / "holiday" / "broken.png").write_text("no picture")

    def run() -> tuple[list[str], str]:
        outcome = client.run(captioning("holiday"))
        assert outcome.failure is None, outcome.failure
        return outcome.outputs["files"]["text"], outcome.outputs["report"]["text"][0]

    files, report = run()
    assert files == ["holiday/0.png", "holiday/1.png", "holiday/2.png"]
    assert report.startswith("3 captioned, 0 were done, 1 failed")
    assert "broken.png" in report
    draw(server.input / "holiday" / "later" / "3.png", 93)
    files, report = run()
    assert len(files) == 4
    assert report.startswith("1 captioned, 3 were done, 1 failed")
    assert (server.input / "holiday" / "later" / "3.txt").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"folder": "nowhere"}, "There is no folder"),
        ({"folder": "../output"}, "no name inside"),
        ({"folder": "unlike/empty"}, "There is no image"),
        ({"folder": "unlike/broken"}, "could be read"),
        ({"folder": "unlike", "language": "Korean"}, "The model cannot write Korean"),
        ({"folder": "unlike", "style": "custom"}, "The prompt is empty"),
        ({"folder": "unlike", "max_new_tokens": 1000}, "lower max_new_tokens"),
    ],
)
def test_a_folder_that_cannot_be_captioned_is_told(
    client: Client, server: ComfyUI, settings: dict[str, object], words: str
) -> None:
    for name in ("empty", "broken"):
        (server.input / "unlike" / name).mkdir(parents=True, exist_ok=True)
    (server.input / "unlike" / "broken" / "1.png").write_text("no picture")
    draw(server.input / "unlike" / "1.png", 95)
    told = refusal(client.run(captioning(**settings)), "CaptionFolder")
    assert words in told
    assert not list((server.input / "unlike").rglob("*.txt"))
