"""ComfyUI in a browser tab, for tests and benchmarks of the panels in web/."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .comfyui_server import PACK_NAME, ComfyUI

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Locator,
        Page,
        Playwright,
    )

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 60_000
"""Long, because tests share their cores with training."""

WAIT_FOR_IMAGES = """() => Promise.all(
    [...document.querySelectorAll('.kd-panel image, .kd-panel img:not([hidden])')]
        .map((shown) => Object.assign(new Image(), { src: shown.href?.baseVal ?? shown.src }))
        .map((image) => image.decode()))"""
"""Wait until the images in panels are decoded."""

MIN_OVERLAP = 2
"""Pixels; smaller overlaps are ignored."""

READY = "() => window.app?.graph && window.app.extensionManager"

LOAD = """async (prompt) => {
    await app.loadApiJson(prompt, 'test');
    const workflow = app.graph.serialize();
    workflow.id = crypto.randomUUID();
    workflow.nodes.forEach((node, k) => (node.pos = [640 * k, 0]));
    await app.loadGraphData(workflow, true, true, workflow.id);
}"""
"""Load an API-format workflow with an id, a name and positions, as saved ones have."""

HAS_DRAFT = """() => {
    const drafts = [...Object.values(localStorage), ...Object.values(sessionStorage)];
    return drafts.some((draft) => {
        const plain = draft.replaceAll('\\\\"', '"');
        return plain.includes(app.graph.id) &&
            app.graph.nodes.every(({ id, type }) => plain.includes(`"id":${id},"type":"${type}"`));
    });
}"""
"""Whether the frontend has stored the current workflow as a draft, in any of its formats."""


OVERLAPS = """(least) => {
    const { ds } = app.canvas;
    const boxes = app.graph.nodes.map((node) => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
        if (drawn) {
            const { left, top, right, bottom } = drawn.getBoundingClientRect();
            return [left, top, right, bottom].map((length) => length / ds.scale);
        }
        const [x, y, width, height] = node.boundingRect;
        return [x, y, x + width, y + height];
    });
    const shared = (a, b, k) => Math.round(Math.min(a[k + 2], b[k + 2]) - Math.max(a[k], b[k]));
    return boxes.flatMap((a, i) => boxes.slice(0, i).flatMap((b, j) => {
        const [width, height] = [shared(a, b, 0), shared(a, b, 1)];
        const [one, other] = [j, i].map((k) => app.graph.nodes[k].title);
        return Math.min(width, height) > least
            ? [`${one} and ${other} share ${width} x ${height}`] : [];
    }));
}"""
"""Overlapping nodes, with their sizes as drawn by the canvas or by Vue."""


class Tab:
    """ComfyUI in a browser tab. `errors` are the console's errors from the pack's code."""

    def __init__(self, page: Page, server: ComfyUI) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self._add_error(f"{error.message} {error.stack}"))
        page.on("console", self._on_console)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._add_error(f"{message.text} {message.location['url']}")

    def _add_error(self, error: str) -> None:
        if PACK_NAME in error:
            self.errors.append(error)

    def open(self) -> None:
        """Load or reload the page."""
        self.page.goto(self.server.address)
        self.page.wait_for_function(READY)

    def wait_for_draft(self) -> None:
        """Wait until the frontend has stored the workflow as a draft."""
        self.page.wait_for_function(HAS_DRAFT)

    def reopen(self, node_type: str, selector: str) -> None:
        """Reload the page after the workflow is stored; wait for an element in a node."""
        self.wait_for_draft()
        self.open()
        self.frame(node_type)
        self.page.wait_for_selector(selector)

    def setting(self, name: str, value: object) -> None:
        """Change one of the frontend's settings permanently."""
        change = "([name, value]) => app.ui.settings.setSettingValueAsync(name, value)"
        self.page.evaluate(change, [name, value])

    def build(self, prompt: dict[str, Any]) -> None:
        """Load a workflow in the API format."""
        self.page.evaluate(LOAD, prompt)

    def run(self, node_type: str, selector: str) -> None:
        """Run the workflow, and wait for an element in a node."""
        self.frame(node_type)  # nodes outside the viewport are not drawn
        self.page.evaluate("() => app.queuePrompt(0)")
        self.page.wait_for_selector(selector)
        self.frame(node_type)

    def frame(self, node_type: str) -> None:
        """Centre the first node of a type at full scale, as soon as it exists."""
        self.page.wait_for_function(
            """nodeType => {
                const node = app.graph.nodes.find((node) => node.type === nodeType);
                if (!node) return false;
                app.canvas.ds.scale = 1;
                app.canvas.centerOnNode(node);
                app.canvas.setDirty(true, true);
                return true;
            }""",
            arg=node_type,
        )

    def overlapping(self) -> list[str]:
        """Return the pairs of overlapping nodes, by their titles."""
        pairs: list[str] = self.page.evaluate(OVERLAPS, MIN_OVERLAP)
        return pairs

    def screenshot(self, file: Path) -> None:
        """Save a screenshot of the page."""
        self.page.evaluate(WAIT_FOR_IMAGES)
        self.page.screenshot(path=file)

    def clipped_screenshot(self, box: Mapping[str, float], margin: int) -> Image.Image:
        """Return a part of the page, RGB: a box (x, y, width, height; CSS pixels) and a margin."""
        png = self.page.screenshot(
            clip={
                "x": box["x"] - margin,
                "y": box["y"] - margin,
                "width": box["width"] + 2 * margin,
                "height": box["height"] + 2 * margin,
            }
        )
        return Image.open(io.BytesIO(png)).convert("RGB")

    def contrast(self, element: Locator) -> float:
        """Return the contrast (WCAG 2.1) of the lightest and the darkest pixel of an element."""
        with Image.open(io.BytesIO(element.screenshot())) as image:
            grey = np.asarray(image.convert("L")) / 255
        light = ((grey + 0.055) / 1.055) ** 2.4
        return float((light.max() + 0.05) / (light.min() + 0.05))


def chromium() -> str | None:
    """Return the path of a Chromium that is installed here, if there is one."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def launch(playwright: Playwright, path: str) -> Browser:
    """Start a Chromium without background network access."""
    return playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)


def configure(context: BrowserContext, server: ComfyUI, *, vue: bool) -> None:
    """Skip the dialogs for newcomers, and select Vue or the canvas for drawing nodes."""
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.OnboardingCoachmarks.Seen": ["appMode"],
        "Comfy.VueNodes.Enabled": vue,
    }
    context.request.post(f"{server.address}/api/settings", data=settings)


@contextmanager
def server_and_browser(frontend: Path | None) -> Iterator[tuple[ComfyUI, Browser]]:
    """Start a ComfyUI in a temporary folder, with its own or another frontend, and a Chromium.

    Exits with a message if no Chromium is installed.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise SystemExit("No Chromium is installed: install one.")
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyUI(Path(base), frontend) as server,
        sync_playwright() as playwright,
    ):
        browser = launch(playwright, path)
        yield server, browser
        browser.close()
