"""Every saved workflow as it is saved, through comfy-cli: does it reach its end, and how soon?"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from .comfy_cli import WorkflowFailedError, run_workflow
from .comfyui_server import ROOT, ComfyUI
from .playground import lay_out
from .server_client import Client

FILES = {file.stem: file for file in sorted((ROOT / "workflows").glob("*.json"))}


def main() -> None:
    """Run those that are named, or all, and print a table; one that fails ends with status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FILES)}")
    names = parser.parse_args().names or list(FILES)
    if unknown := set(names) - set(FILES):
        parser.error(f"there is no workflow {', '.join(sorted(unknown))}")
    print("| workflow | nodes | pictures shown | seconds |\n|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        lay_out(server.input)
        for name in names:
            try:
                print(_row(server, FILES[name]), flush=True)
            except WorkflowFailedError as error:
                failed = True
                print(f"| {name} | | | failed: {error} |", flush=True)
    print(f"\n{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}")
    sys.exit(failed)


def _row(server: ComfyUI, file: Path) -> str:
    nodes = len(json.loads(file.read_text(encoding="utf-8"))["nodes"])
    began = time.monotonic()
    prompt = run_workflow(server, file, lambda event: None)
    seconds = time.monotonic() - began
    outputs = Client(server.address).get(f"/history/{prompt}")[prompt]["outputs"]
    pictures = sum(len(shown.get("images", ())) for shown in outputs.values())
    return f"| {file.stem} | {nodes} | {pictures} | {seconds:.0f} |"
