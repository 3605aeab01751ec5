"""Makes the pack importable as `kosmos_dreambooth` in every test, and lends them one ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from as_package import load

if TYPE_CHECKING:
    from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
    from kosmos_dreambooth.dev.demo.server_client import Client

load("shared.errors")

# A busy machine is no failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A running server; `server.input` and `server.output` are its folders, `server.base` all.

    Next to our pack it has tests/host/other_pack.
    """
    from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, ComfyUI

    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "other_pack").symlink_to(ROOT / "tests" / "host" / "other_pack")
    with ComfyUI(base) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ComfyUI) -> Client:
    """Runs workflows on that server: `client.run({"1": {"class_type": ..., "inputs": {...}}})`."""
    from kosmos_dreambooth.dev.demo.server_client import Client

    return Client(server.address)
