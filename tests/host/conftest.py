"""One real ComfyUI server for the whole test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kosmos_dreambooth.demo.client import Client
from kosmos_dreambooth.demo.comfyui import ComfyUI


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A running server; `server.input` and `server.output` are its folders, `server.base` all."""
    with ComfyUI(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ComfyUI) -> Client:
    """Runs workflows on that server: `client.run({"1": {"class_type": ..., "inputs": {...}}})`."""
    return Client(server.address)
