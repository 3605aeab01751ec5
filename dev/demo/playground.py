"""The folder that `make demo` and `make serve` share: inputs, models and pictures of the demo."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from .comfyui_server import ROOT, ComfyUI

PLAYGROUND = ROOT / "playground"
SUBJECT = ROOT / "sandbox" / "subject"
FOLDERS = (ROOT / "sandbox" / "scenes", ROOT / "sandbox" / "german")


def playground() -> ComfyUI:
    """Return a server, not yet started, whose input folder holds what the workflows look at."""
    server = ComfyUI(PLAYGROUND)
    lay_out(server.input)
    return server


def lay_out(folder: Path) -> None:
    """Put the sandbox's pictures into an input folder: the subject's four, and its scenes."""
    shutil.copytree(SUBJECT, folder, dirs_exist_ok=True)
    for scenes in FOLDERS:
        shutil.copytree(scenes, folder / scenes.name, dirs_exist_ok=True)


def main() -> None:
    """Start a ComfyUI with the pack in it, print its address, and keep it up until Ctrl-C."""
    print("Starting ComfyUI ...", flush=True)
    with playground() as server:
        print(f"ComfyUI with the pack is at {server.address} (Ctrl-C stops it).")
        print("The demo's workflow is in its menu: Workflow > Browse Templates.", flush=True)
        try:
            while server.is_up():
                time.sleep(1)
        except KeyboardInterrupt:
            print("\nStopping ComfyUI ...")
        else:
            print(f"ComfyUI has stopped by itself; {server.log} tells why.")
