"""Run the saved workflows through comfy-cli, and print a table of nodes, images and seconds.

What a workflow needs besides the pack is in its file: `extra.requires_comfyui` is the oldest
ComfyUI that it was tested with, and `properties.models` of a node the files that it loads.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from ..bench.timing import environment
from ..command_line import parse_arguments
from .comfy_cli import WorkflowFailedError, run_workflow
from .comfyui_server import ROOT, ComfyUI
from .playground import copy_inputs
from .run_demo import WorkflowOutputs
from .server_client import Client
from .thumbnails import QUALITY, SHOWN, draw_thumbnail
from .write_blueprints import graphs

FILES = {file.stem: file for file in sorted((ROOT / "workflows").glob("*.json"))}


def main() -> None:
    """Run the named workflows, or all; exit with status 1 if one fails."""
    options = parse_arguments(
        __doc__,
        names={"nargs": "*", "help": f"of {', '.join(FILES)}"},
        thumbnails=(False, "write workflows/<name>.jpg anew"),
    )
    names = options.names or list(FILES)
    if unknown := set(names) - set(FILES):
        sys.exit(f"There is no workflow {', '.join(sorted(unknown))}.")
    print("| workflow | nodes | images shown | seconds |\n|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        copy_inputs(server.input)
        for name in names:
            try:
                print(_row(server, FILES[name], thumbnail=options.thumbnails), flush=True)
            except WorkflowFailedError as error:
                failed = True
                print(f"| {name} | | | failed: {error} |", flush=True)
    print(f"\n{environment()}")
    sys.exit(failed)


def newer_comfyui(workflow: dict[str, Any], client: Client) -> str:
    """Return what a workflow's ComfyUI is called if it is newer than the server, else ""."""
    needed = str(workflow.get("extra", {}).get("requires_comfyui", "0"))
    version = str(client.get("/system_stats")["system"]["comfyui_version"])
    numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in (version, needed)]
    return f"ComfyUI {needed}" if numbers[0] < numbers[1] else ""


def models_of(node: dict[str, Any]) -> list[dict[str, str]]:
    """Return name, url and directory of each file that a saved node loads."""
    return list(node["properties"].get("models", ()))


def missing_models(workflow: dict[str, Any], client: Client) -> str:
    """Return the names of a workflow's models that the server does not have."""
    nodes = [node for level in graphs(workflow) for node in level["nodes"]]
    models = [model for node in nodes for model in models_of(node)]
    return ", ".join(
        model["name"]
        for model in models
        if model["name"] not in client.get(f"/models/{model['directory']}")
    )


def _row(server: ComfyUI, file: Path, *, thumbnail: bool) -> str:
    workflow, client = json.loads(file.read_text(encoding="utf-8")), Client(server.address)
    nodes = len(workflow["nodes"])
    if lacking := newer_comfyui(workflow, client) or missing_models(workflow, client):
        return f"| {file.stem} | {nodes} | | not run: needs {lacking} |"
    start = time.monotonic()
    prompt = run_workflow(server, file, lambda event: None)
    seconds = time.monotonic() - start
    outputs = client.get(f"/history/{prompt}")[prompt]["outputs"]
    images = sum(len(output.get("images", ())) for output in outputs.values())
    if thumbnail and file.stem in SHOWN:
        shown = WorkflowOutputs(server, prompt)
        files = [f for title, count in SHOWN[file.stem].items() for f in shown.files(title)[:count]]
        drawn = draw_thumbnail([Image.open(path) for path in files])
        drawn.save(file.with_suffix(".jpg"), quality=QUALITY, optimize=True)
    return f"| {file.stem} | {nodes} | {images} | {seconds:.0f} |"
