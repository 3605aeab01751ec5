"""Nodes that write to a disk that is full: one sentence, no part of a file, no lost file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from safetensors.torch import save_file

from .conftest import Graph, train_graph


@contextmanager
def full_disk(folder: Path, *files: Path) -> Iterator[None]:
    """Mount a disk of 64 kB at a folder, and fill it; of what the folder had it holds `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {file.name: file.read_bytes() for file in files}
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("Only root can mount a disk.")
    try:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 1024)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607


def embedding(server: ComfyUI) -> Path:
    """An embedding in the folder that MergeEmbeddings writes to."""
    file = server.base / "models" / "embeddings" / "dreambooth" / "earlier.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"clip_l": torch.ones(2, 256)}, file)
    return file


@pytest.mark.parametrize("name", ["earlier", "new"])
def test_merge_embeddings_keeps_the_earlier_file(
    server: ComfyUI, client: Client, name: str
) -> None:
    file = embedding(server)
    whole = file.read_bytes()
    graph = Graph().add(
        "merge", "MergeEmbeddings", file_a="dreambooth/earlier.safetensors", name=name
    )
    graph.add("show", "PreviewAny", source=["merge", 1])
    with full_disk(file.parent, file):
        assert "free disk space" in graph.failure(client, "merge")
        assert file.read_bytes() == whole
        assert {path.name for path in file.parent.iterdir()} == {file.name, "filler"}


def caption_graph() -> Graph:
    """A captioned image ("caption")."""
    graph = Graph().add("load", "LoadKosmos").add("image", "EmptyImage", width=64, height=64)
    inputs = {"kosmos": ["load", 0], "image": ["image", 0], "max_new_tokens": 4}
    return graph.add("caption", "GroundedCaption", **inputs)


def test_a_panel_without_temp_space_is_one_sentence(server: ComfyUI, client: Client) -> None:
    graph = caption_graph().add("show", "PreviewAny", source=["caption", 0])
    with full_disk(server.base / "temp"):
        assert "free disk space" in graph.failure(client, "caption")
    assert graph.run(client).failure is None


def test_caption_files_are_whole_or_absent(server: ComfyUI, client: Client) -> None:
    graph = caption_graph().add(
        "save", "SaveCaptions", image=["image", 0], grounding=["caption", 1], folder="no_space"
    )
    with full_disk(server.output / "no_space"):
        assert "free disk space" in graph.failure(client, "save")
        assert [path.name for path in (server.output / "no_space").iterdir()] == ["filler"]


def test_a_trained_lora_is_published_when_there_is_space(
    server: ComfyUI, client: Client, tiny_model: str
) -> None:
    assert tiny_model
    target = server.base / "models" / "loras" / "dreambooth" / "full_disk.safetensors"
    graph = train_graph("full_disk", steps=1)
    with full_disk(target.parent):
        assert "free disk space" in graph.failure(client, "train")
        assert [path.name for path in target.parent.iterdir()] == ["filler"]
    graph.outputs(client)
    assert target.stat().st_size > 1000
