"""Write docs/core_nodes.md: the nodes of ComfyUI that the pack's sockets connect to.

They are those of the ComfyUI that COMFYUI_DIR names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .comfyui_server import PACK_NAME, ROOT, ComfyUI
from .server_client import Client

FILE = ROOT / "docs" / "core_nodes.md"
WIDGETS = {"INT", "FLOAT", "BOOLEAN", "COMBO", "*"}
HEADING = """# Core nodes that the pack's sockets connect to

Written by `python -m dev core-nodes` from the `/object_info` of ComfyUI {version}; a test compares
it with the server. `Node.input` takes an output of the pack, `Node` gives an input of the pack.
"""

Schemas = dict[str, dict[str, Any]]


def main() -> None:
    """Write the table from a temporary server."""
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        client = Client(server.address)
        version = client.get("/system_stats")["system"]["comfyui_version"]
        text = HEADING.format(version=version) + table(client.nodes())
    FILE.write_text(text, encoding="utf-8")


def connections(schemas: Schemas) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return by socket type core's inputs for our outputs, and core's nodes for our inputs."""
    ours = [node for node in schemas.values() if node["python_module"].endswith(PACK_NAME)]
    core = [node for node in schemas.values() if _is_core(node)]
    given = {kind for node in ours for kind in node["output"]} - WIDGETS
    taken = {kind for node in ours for _, kind in _inputs(node)} - WIDGETS
    inputs: dict[str, list[str]] = {kind: [] for kind in sorted(given)}
    outputs: dict[str, list[str]] = {kind: [] for kind in sorted(taken)}
    for node in core:
        for name, kind in _inputs(node):
            if kind in inputs:
                inputs[kind].append(f"{node['name']}.{name}")
        for kind in dict.fromkeys(node["output"]):
            if isinstance(kind, str) and kind in outputs:
                outputs[kind].append(node["name"])
    return inputs, outputs


def _is_core(node: dict[str, Any]) -> bool:
    return str(node["python_module"]).split(".")[0] in ("nodes", "comfy_extras")


def _inputs(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and socket type of each input; one of several types once for each."""
    for section in ("required", "optional"):
        for name, (kind, *_) in node["input"].get(section, {}).items():
            if isinstance(kind, str):
                yield from ((name, part) for part in kind.split(","))


def table(schemas: Schemas) -> str:
    """Return the two tables in Markdown; types that no core node has are left out."""
    inputs, outputs = connections(schemas)
    return _section("What takes our outputs", "inputs of core nodes", inputs) + _section(
        "What gives our inputs", "core nodes", outputs
    )


def _section(title: str, column: str, rows: dict[str, list[str]]) -> str:
    lines = [f"| {kind} | {', '.join(sorted(names))} |" for kind, names in rows.items() if names]
    return "\n".join([f"\n## {title}\n", f"| type | {column} |", "|---|---|", *lines, ""])
