"""Take the README's screenshots of panels: run saved workflows in a browser.

Each workflow runs unchanged; the panel of one of its nodes is cropped, with the pointer on an
interactive element.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from ..command_line import parse_arguments
from .browser_tab import WAIT_FOR_IMAGES, Tab, configure, server_and_browser
from .comfyui_server import ROOT
from .playground import copy_inputs

if TYPE_CHECKING:
    from playwright.sync_api import Locator

FOLDER = ROOT / "docs"
PIXEL_RATIO = 2
QUALITY = 88
MARGIN = 8
"""Pixels of the node around its panel."""

RUN_MS = 1_200_000

OPEN = "(workflow) => app.loadGraphData(workflow, true, true, workflow.id)"

ENDED = """() => {
    const ends = ['execution_success', 'execution_error', 'execution_interrupted'];
    return new Promise((resolve) => {
        for (const kind of ends) app.api.addEventListener(kind, () => resolve(kind));
        app.queuePrompt(0);
    });
}"""
"""Run the workflow, and return the event that ended it."""


SHRINK = """(id) => {
    const node = app.graph.getNodeById(id);
    node.setSize([node.size[0], node.computeSize()[1]]);
}"""
"""Shrink a node to the height that its panel needs."""

FIRST = "(kind) => app.graph.nodes.find((node) => node.type === kind).id"


class Shot(NamedTuple):
    """A workflow, a node type in it, and what the pointer does in its panel."""

    workflow: str
    kind: str
    interact: Callable[[Locator], object]


def _hover_phrase(panel: Locator) -> None:
    panel.locator(".kd-phrase").first.hover()


def _click_word(panel: Locator) -> None:
    panel.locator(".kd-phrase", has_text="dog").first.click()


def _click_patch(panel: Locator) -> None:
    panel.locator(".kd-stage").click()


def _hover_pair(panel: Locator) -> None:
    panel.locator(".kd-cells").hover()


def _move_away(panel: Locator) -> None:
    panel.page.mouse.move(2, 2)


SHOTS = {
    "grounded_caption": Shot("caption_a_folder", "GroundedCaption", _hover_phrase),
    "attention_map": Shot("vision_alignment", "AttentionMap", _click_word),
    "patch_tokens": Shot("vision_alignment", "PatchTokens", _click_patch),
    "compare_embeddings": Shot("image_search", "CompareEmbeddings", _hover_pair),
    "quantize": Shot("quantize_and_compare", "Quantize", _move_away),
    "training": Shot("choose_the_best_checkpoint", "DreamBoothTrain", _move_away),
}


def main() -> None:
    """Run the workflows, and write the screenshots into docs/."""
    options = parse_arguments(
        __doc__,
        names={"nargs": "*", "help": "panels; all by default"},
        frontend={"type": Path, "help": "folder of another frontend"},
    )
    require_known(options.names, SHOTS)
    with opened_tab(options.frontend, 1400, 1500) as tab:
        for name in options.names or SHOTS:
            _take(tab, SHOTS[name]).save(
                FOLDER / f"panel_{name}.jpg", quality=QUALITY, optimize=True
            )
            print(f"docs/panel_{name}.jpg", flush=True)


@contextmanager
def opened_tab(frontend: Path | None, width: int, height: int) -> Iterator[Tab]:
    """Open a new ComfyUI with the sandbox's images in a page of a size, with Vue nodes."""
    with server_and_browser(frontend) as (server, browser):
        copy_inputs(server.input)
        context = browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=PIXEL_RATIO
        )
        configure(context, server, vue=True)
        tab = Tab(context.new_page(), server)
        tab.page.set_default_timeout(RUN_MS)
        tab.open()
        yield tab


def require_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Exit with a message that lists the known names if one is not among them."""
    if unknown := set(names).difference(known):
        raise SystemExit(f"{', '.join(sorted(unknown))}: choose of {', '.join(sorted(known))}.")


def run_workflow(tab: Tab, name: str) -> None:
    """Open a saved workflow and run it to its end."""
    file = ROOT / "workflows" / f"{name}.json"
    tab.page.evaluate(OPEN, json.loads(file.read_text(encoding="utf-8")))
    ended = tab.page.evaluate(ENDED)
    if ended != "execution_success":
        raise RuntimeError(f"{file.name} ended with {ended}.")


def _take(tab: Tab, shot: Shot) -> Image.Image:
    """Run a workflow and return a screenshot of its panel."""
    run_workflow(tab, shot.workflow)
    node = tab.page.evaluate(FIRST, shot.kind)
    tab.page.evaluate(SHRINK, node)
    tab.frame(shot.kind)
    panel = tab.page.locator(f'[data-node-id="{node}"] .kd-panel')
    shot.interact(panel)
    tab.page.evaluate(WAIT_FOR_IMAGES)
    tab.page.wait_for_timeout(500)  # colours fade
    box = panel.evaluate("(panel) => panel.getBoundingClientRect().toJSON()")
    return tab.clipped_screenshot(box, MARGIN)
