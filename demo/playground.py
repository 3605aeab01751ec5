"""The folder that `make demo` and `make serve` share: inputs, models and pictures of the demo."""

from __future__ import annotations

import shutil
import time

from .comfyui import ROOT, ComfyUI

PLAYGROUND = ROOT / "playground"
SUBJECT = ROOT / "sandbox" / "subject"


def playground() -> ComfyUI:
    """Return a server, not yet started, whose input folder holds the demo's four pictures."""
    server = ComfyUI(PLAYGROUND)
    server.input.mkdir(parents=True, exist_ok=True)
    for picture in sorted(SUBJECT.glob("*.png")):
        shutil.copy(picture, server.input / picture.name)
    return server


def serve() -> None:
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
