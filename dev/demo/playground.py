"""Start a ComfyUI with the pack and keep it running; its folder is shared with the demo."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from .comfyui_server import ROOT, ComfyUI

PLAYGROUND = ROOT / "playground"
SUBJECT = ROOT / "sandbox" / "subject"
FOLDERS = (SUBJECT, ROOT / "sandbox" / "scenes", ROOT / "sandbox" / "german")


def playground() -> ComfyUI:
    """Return a server, not yet started, with the workflows' input files."""
    server = ComfyUI(PLAYGROUND)
    copy_inputs(server.input)
    return server


def copy_inputs(folder: Path) -> None:
    """Copy the sandbox's images into an input folder: the subject's four, and all its folders."""
    shutil.copytree(SUBJECT, folder, dirs_exist_ok=True)
    for images in FOLDERS:
        shutil.copytree(images, folder / images.name, dirs_exist_ok=True)


def main() -> None:
    """Start a ComfyUI with the pack, print its address, and keep it running until Ctrl-C."""
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
            print(f"ComfyUI stopped unexpectedly: see {server.log}.")
