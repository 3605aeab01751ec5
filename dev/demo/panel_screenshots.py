"""The pictures of panels in the README: saved workflows that ran in a browser, looked at.

Each workflow runs as it is saved; the panel of one of its nodes is cut out, with the pointer on
what the panel is for.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from .browser_tab import DRAWN, Tab, greeted, server_and_browser
from .comfyui_server import ROOT
from .playground import lay_out

if TYPE_CHECKING:
    from playwright.sync_api import Locator

FOLDER = ROOT / "docs"
SHARPNESS = 2
QUALITY = 88
AROUND = 8
"""Pixels of the node that are seen around its panel."""

RUN_MS = 1_200_000

OPEN = "(workflow) => app.loadGraphData(workflow, true, true, workflow.id)"

ENDED = """() => {
    const ends = ['execution_success', 'execution_error', 'execution_interrupted'];
    return new Promise((told) => {
        for (const kind of ends) app.api.addEventListener(kind, () => told(kind));
        app.queuePrompt(0);
    });
}"""
"""Run the workflow, and say how it ended."""


SHRINK = """(id) => {
    const node = app.graph.getNodeById(id);
    node.setSize([node.size[0], node.computeSize()[1]]);
}"""
"""Take the room away that a workflow gave to a node, but for what its panel asks for."""

FIRST = "(kind) => app.graph.nodes.find((node) => node.type === kind).id"


class Sitter(NamedTuple):
    """A workflow, the kind of a node in it, and what the pointer does to its panel."""

    workflow: str
    kind: str
    pose: Callable[[Locator], object]


def _point_at_a_phrase(panel: Locator) -> None:
    panel.locator(".kd-phrase").first.hover()


def _choose_a_word(panel: Locator) -> None:
    panel.locator(".kd-phrase", has_text="dog").first.click()


def _choose_a_patch(panel: Locator) -> None:
    panel.locator(".kd-stage").click()


def _point_at_a_pair(panel: Locator) -> None:
    panel.locator(".kd-cells").hover()


def _look(panel: Locator) -> None:
    panel.page.mouse.move(2, 2)


SITTERS = {
    "grounded_caption": Sitter("caption_a_folder", "GroundedCaption", _point_at_a_phrase),
    "attention_map": Sitter("vision_alignment", "AttentionMap", _choose_a_word),
    "patch_tokens": Sitter("vision_alignment", "PatchTokens", _choose_a_patch),
    "compare_embeddings": Sitter("image_search", "CompareEmbeddings", _point_at_a_pair),
    "quantize": Sitter("quantize_and_compare", "Quantize", _look),
    "training": Sitter("choose_the_best_checkpoint", "DreamBoothTrain", _look),
}


def main() -> None:
    """Read the command line, run the workflows, and write the pictures into docs/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SITTERS)}")
    parser.add_argument("--frontend", type=Path, help="folder of another frontend")
    options = parser.parse_args()
    with server_and_browser(options.frontend) as (server, browser):
        lay_out(server.input)
        context = browser.new_context(
            viewport={"width": 1400, "height": 1500}, device_scale_factor=SHARPNESS
        )
        greeted(context, server, vue=True)
        tab = Tab(context.new_page(), server)
        tab.page.set_default_timeout(RUN_MS)
        tab.open()
        for name in options.names or SITTERS:
            _take(tab, SITTERS[name]).save(
                FOLDER / f"panel_{name}.jpg", quality=QUALITY, optimize=True
            )
            print(f"docs/panel_{name}.jpg", flush=True)


def _take(tab: Tab, sitter: Sitter) -> Image.Image:
    """Run a workflow and return the picture of a panel in it."""
    file = ROOT / "workflows" / f"{sitter.workflow}.json"
    tab.page.evaluate(OPEN, json.loads(file.read_text(encoding="utf-8")))
    node = tab.page.evaluate(FIRST, sitter.kind)
    tab.page.evaluate(SHRINK, node)
    tab.frame(sitter.kind)
    ended = tab.page.evaluate(ENDED)
    if ended != "execution_success":
        raise RuntimeError(f"{file.name} ended with {ended}.")
    tab.frame(sitter.kind)
    panel = tab.page.locator(f'[data-node-id="{node}"] .kd-panel')
    sitter.pose(panel)
    tab.page.evaluate(DRAWN)
    tab.page.wait_for_timeout(500)  # colours fade over
    box = panel.bounding_box()
    if box is None:
        raise RuntimeError(f"{sitter.kind} shows no panel.")
    picture = tab.page.screenshot(
        clip={
            "x": box["x"] - AROUND,
            "y": box["y"] - AROUND,
            "width": box["width"] + 2 * AROUND,
            "height": box["height"] + 2 * AROUND,
        }
    )
    return Image.open(io.BytesIO(picture)).convert("RGB")
