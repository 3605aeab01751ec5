"""Run the saved workflows through comfy-cli, and print a table of nodes, images and seconds."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from ..bench.timing import environment
from ..command_line import parse_arguments
from .comfy_cli import WorkflowFailedError, run_workflow
from .comfyui_server import ROOT, ComfyUI
from .playground import copy_inputs
from .server_client import Client

FILES = {file.stem: file for file in sorted((ROOT / "workflows").glob("*.json"))}


def main() -> None:
    """Run the named workflows, or all; exit with status 1 if one fails."""
    argument = {"nargs": "*", "help": f"of {', '.join(FILES)}"}
    names = parse_arguments(__doc__, names=argument).names or list(FILES)
    if unknown := set(names) - set(FILES):
        sys.exit(f"There is no workflow {', '.join(sorted(unknown))}.")
    print("| workflow | nodes | images shown | seconds |\n|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        copy_inputs(server.input)
        for name in names:
            try:
                print(_row(server, FILES[name]), flush=True)
            except WorkflowFailedError as error:
                failed = True
                print(f"| {name} | | | failed: {error} |", flush=True)
    print(f"\n{environment()}")
    sys.exit(failed)


def _row(server: ComfyUI, file: Path) -> str:
    nodes = len(json.loads(file.read_text(encoding="utf-8"))["nodes"])
    start = time.monotonic()
    prompt = run_workflow(server, file, lambda event: None)
    seconds = time.monotonic() - start
    outputs = Client(server.address).get(f"/history/{prompt}")[prompt]["outputs"]
    images = sum(len(output.get("images", ())) for output in outputs.values())
    return f"| {file.stem} | {nodes} | {images} | {seconds:.0f} |"
