"""Makes the pack importable as `kosmos_dreambooth` in every test, and lends them one ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from as_package import load

if TYPE_CHECKING:
    from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
    from kosmos_dreambooth.dev.demo.server_client import Client

load("shared.errors")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A running server; `server.input` and `server.output` are its folders, `server.base` all."""
    from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI

    with ComfyUI(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ComfyUI) -> Client:
    """Runs workflows on that server: `client.run({"1": {"class_type": ..., "inputs": {...}}})`."""
    from kosmos_dreambooth.dev.demo.server_client import Client

    return Client(server.address)
