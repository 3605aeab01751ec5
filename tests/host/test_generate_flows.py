"""The saved workflows about generation run as they are saved, here in fewer steps."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from kosmos_dreambooth.demo.cli import COMFY
from kosmos_dreambooth.demo.client import Client
from kosmos_dreambooth.demo.comfyui import ROOT, ComfyUI
from PIL import Image

# Each with its pictures, by the titles of the nodes that save them.
WORKFLOWS = {
    "image_to_image": ["Denoise 0.3", "Denoise 0.5", "Denoise 0.7"],
    "inpaint_by_grounding": ["What Kosmos-2 found", "Before", "After"],
    "regional_prompts": ["The layout", "The picture"],
    "compare_guidance_and_steps": ["Guidance to the right, steps downwards"],
}


def as_sent(server: ComfyUI, workflow: Path) -> dict:
    """The workflow as comfy-cli sends it."""
    command = [str(COMFY), "--skip-prompt", "run", "--print-prompt", "--workflow", str(workflow)]
    done = subprocess.run(
        [*command, "--host", "127.0.0.1", "--port", str(server.port)],
        env=os.environ | {"DO_NOT_TRACK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)["data"]["prompt"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_reaches_its_end_and_saves_its_pictures(
    server: ComfyUI, client: Client, name: str
) -> None:
    graph = as_sent(server, ROOT / "workflows" / f"{name}.json")
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    outcome = client.run(graph)
    assert outcome.failure is None
    titles = {node["_meta"]["title"]: key for key, node in graph.items()}
    for title in WORKFLOWS[name]:
        for entry in outcome.outputs[titles[title]]["images"]:
            with Image.open(server.output / entry["subfolder"] / entry["filename"]) as picture:
                assert picture.width >= 64
