"""SaveCaptions and CaptionFolder: txt, JSON and COCO files, for batches and for folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from PIL import Image

from .conftest import Graph, scene, texts


def save_scene(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene(seed).save(path)


def save_graph(server: ComfyUI, **settings: object) -> Graph:
    """Caption two scenes and save them."""
    inputs = {"image": ["images", 0], "grounding": ["caption", 1], "folder": "set"}
    inputs |= {"format": "txt and json", "coco": True, **settings}
    caption = {"kosmos": ["model", 0], "image": ["images", 0], "max_new_tokens": 30}
    return (
        Graph()
        .load_images(server.input, scene(79), scene(80), name="save")
        .add("model", "LoadKosmos")
        .add("caption", "GroundedCaption", **caption)
        .add("save", "SaveCaptions", **inputs)
    )


def test_captions_are_saved_and_added_to_a_folder(client: Client, server: ComfyUI) -> None:
    save_graph(server).outputs(client)
    folder = server.output / "set"
    names = {path.name for path in folder.iterdir()}
    stems = sorted(path.stem for path in folder.glob("*.png"))
    assert [stem[-5:] for stem in stems] == ["00001", "00002"]
    assert names == {
        "coco_captions.json",
        "coco_instances.json",
        *(f"{stem}.{suffix}" for stem in stems for suffix in ("png", "txt", "json")),
    }
    grounding = json.loads((folder / f"{stems[0]}.json").read_text(encoding="utf-8"))
    caption = (folder / f"{stems[0]}.txt").read_text(encoding="utf-8")
    assert grounding["caption"] == caption.strip()
    original = Image.open(server.input / "save_0.png").convert("RGB")
    assert Image.open(folder / f"{stems[0]}.png").tobytes() == original.tobytes()
    save_graph(server, coco=False, format="txt").outputs(client)
    assert (folder / f"{stems[0][:-5]}00004.txt").exists()


def test_captions_next_to_input_images_are_not_overwritten(client: Client, server: ComfyUI) -> None:
    named = {"files": "save_0.png\nsave_1.png", "beside_inputs": True, "coco": False}
    save_graph(server, format="txt", **named).outputs(client)
    assert (server.input / "save_0.txt").exists()
    (server.input / "save_0.txt").write_text("mine")
    sentence = save_graph(server, **named).failure(client, "SaveCaptions")
    assert "overwrite" in sentence
    assert (server.input / "save_0.txt").read_text() == "mine"
    assert not (server.input / "save_0.json").exists()


def test_an_image_file_is_replaced_only_with_overwrite(client: Client, server: ComfyUI) -> None:
    mine = server.output / "mine" / "dog.png"
    save_scene(mine, 5)
    before = mine.read_bytes()
    named = {"folder": "mine", "files": "dog.png\ncat.png", "coco": False}
    assert "overwrite" in save_graph(server, **named).failure(client, "SaveCaptions")
    assert [path.name for path in mine.parent.iterdir()] == ["dog.png"]
    save_graph(server, save_images=False, **named).outputs(client)
    assert mine.read_bytes() == before
    save_graph(server, overwrite=True, **named).outputs(client)
    assert mine.read_bytes() != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folder": "../elsewhere"}, "no name inside"),
        ({"files": "one.png"}, "2 images but 1 names"),
        ({"beside_inputs": True}, "name them in files"),
        ({"beside_inputs": True, "files": "save_0.png\ngone.png"}, '"gone.png"'),
        ({"beside_inputs": True, "files": "save_0.png\n../gone.png"}, "no name inside"),
        ({"folder": "taken/set"}, "could not be written"),
    ],
)
def test_a_wrong_place_is_one_sentence(
    client: Client, server: ComfyUI, settings: dict[str, object], message: str
) -> None:
    (server.output / "taken").write_text("a file where a folder is needed")
    assert message in save_graph(server, **settings).failure(client, "SaveCaptions")


def test_images_of_one_name_keep_their_captions(client: Client, server: ComfyUI) -> None:
    names = ["b1/a.png", "b1/a.jpg", "b2/photo.v1.2.png"]
    graph = save_graph(server, format="txt", files="\n".join(names), beside_inputs=True)
    for name in names:
        save_scene(server.input / "one" / name, 81)
    graph.set("save", files="\n".join(f"one/{name}" for name in names))
    graph.add("three", "RepeatImageBatch", image=["images", 0], amount=2)
    graph.add("image", "ImageFromBatch", image=["three", 0], batch_index=0, length=3)
    graph.set("caption", image=["image", 0], max_new_tokens=1000)
    graph.set("save", image=["image", 0])
    graph.outputs(client)
    written = {
        path.relative_to(server.input / "one").as_posix()
        for path in (server.input / "one").rglob("*")
        if path.suffix in (".txt", ".json")
    }
    assert written == {
        "b1/a.txt",
        "b1/a.jpg.txt",
        "b2/photo.v1.2.txt",
        "coco_captions.json",
        "coco_instances.json",
    }
    coco = json.loads((server.input / "one" / "coco_captions.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in coco["images"]] == names


def test_a_name_without_the_ending_of_an_image_is_kept(client: Client, server: ComfyUI) -> None:
    save_graph(server, folder="kept", files="img.001\nimg.002", coco=False).outputs(client)
    assert {path.name for path in (server.output / "kept").glob("*.txt")} == {
        "img.001.txt",
        "img.002.txt",
    }


def folder_graph(folder: str, **settings: object) -> Graph:
    """Caption a folder, and show which files have a caption and the report."""
    inputs = {"kosmos": ["model", 0], "folder": folder, "max_new_tokens": 30, **settings}
    return (
        Graph()
        .add("model", "LoadKosmos")
        .add("folder", "CaptionFolder", **inputs)
        .add("files", "PreviewAny", source=["folder", 0])
        .add("report", "PreviewAny", source=["folder", 2])
    )


def test_a_folder_is_captioned_and_new_images_are_found(client: Client, server: ComfyUI) -> None:
    for k in range(3):
        save_scene(server.input / "holiday" / f"{k}.png", 90 + k)
    (server.input / "holiday" / "broken.png").write_text("not an image")
    (server.input / "holiday" / "1.json").write_text('{"shapes": []}')
    outcome = folder_graph("holiday").outputs(client)
    assert texts(outcome, "files") == ["holiday/0.png", "holiday/1.png", "holiday/2.png"]
    report = texts(outcome, "report")[0]
    assert report.startswith("3 captioned, 0 skipped, 1 failed")
    assert "broken.png" in report
    assert "1.json is not a caption" in report
    save_scene(server.input / "holiday" / "later" / "3.png", 93)
    outcome = folder_graph("holiday").outputs(client)
    assert len(texts(outcome, "files")) == 4
    assert texts(outcome, "report")[0].startswith("1 captioned, 3 skipped, 1 failed")
    assert (server.input / "holiday" / "later" / "3.txt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folder": "nowhere"}, "There is no folder"),
        ({"folder": "../output"}, "no name inside"),
        ({"folder": "unlike/empty"}, "There is no image"),
        ({"folder": "unlike/broken"}, "could be read"),
        ({"folder": "unlike", "language": "Korean"}, "The model cannot write Korean"),
        ({"folder": "unlike", "style": "custom"}, "The prompt is empty"),
    ],
)
def test_a_folder_that_cannot_be_captioned_is_one_sentence(
    client: Client, server: ComfyUI, settings: dict[str, object], message: str
) -> None:
    for name in ("empty", "broken"):
        (server.input / "unlike" / name).mkdir(parents=True, exist_ok=True)
    (server.input / "unlike" / "broken" / "1.png").write_text("not an image")
    save_scene(server.input / "unlike" / "1.png", 95)
    failure = folder_graph(**settings).run(client).failure
    assert failure is not None
    assert (failure.node_type, failure.kind[-9:]) == ("CaptionFolder", "UserError")
    assert message in failure.sentence  # and a line for each file that failed
    assert not list((server.input / "unlike").rglob("*.txt"))


def test_texts_of_another_captioner_get_the_trigger_word(client: Client, server: ComfyUI) -> None:
    graph = Graph().load_images(server.input, scene(79), scene(80), name="other")
    graph.add("text", "PrimitiveStringMultiline", value="Two Dogs on a hotdog.")
    inputs = {"image": ["images", 0], "captions": ["text", 0], "folder": "other_captions"}
    trigger = {"trigger_word": "before class", "token": "ohwx", "class_name": "dog"}
    graph.add("save", "SaveCaptions", **inputs, **trigger).outputs(client)
    files = sorted((server.output / "other_captions").glob("*.txt"))
    assert [file.read_text(encoding="utf-8").strip() for file in files] == [
        "Two ohwx Dogs on a hotdog."
    ] * 2
    for k in range(2):
        save_scene(server.input / "other_folder" / f"{k}.png", 79 + k)
    graph = Graph().add("text", "PrimitiveStringMultiline", value="a dog")
    settings = {"folder": "other_folder", "captions": ["text", 0]}
    graph.add("folder", "CaptionFolder", **settings, **trigger | {"trigger_word": "in front"})
    graph.add("show", "PreviewAny", source=["folder", 1])
    assert texts(graph.outputs(client), "show") == ["ohwx, a dog"] * 2
    assert (server.input / "other_folder" / "0.txt").read_text().strip() == "ohwx, a dog"
    graph.set("folder", **trigger | {"token": "two words"})
    assert "must be one word" in graph.failure(client, "folder")
    del graph["folder"]["inputs"]["captions"]
    assert "Connect either kosmos or captions" in graph.failure(client, "folder")
