"""ComfyUI in a browser's tab, for tests and measurements of the panels in web/."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
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

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW_MS = 60_000
"""How long the browser is waited for: tests share their cores with training."""

DRAWN = """() => Promise.all(
    [...document.querySelectorAll('.kd-panel image, .kd-panel img:not([hidden])')]
        .map((drawn) => Object.assign(new Image(), { src: drawn.href?.baseVal ?? drawn.src }))
        .map((picture) => picture.decode()))"""
"""Wait for the pictures in panels."""

LEAST_OVERLAP = 2
"""Pixels that do not count."""

READY = "() => window.app?.graph && window.app.extensionManager"

LOAD = """async (prompt) => {
    await app.loadApiJson(prompt, 'test');
    const workflow = app.graph.serialize();
    workflow.id = crypto.randomUUID();
    workflow.nodes.forEach((node, k) => (node.pos = [640 * k, 0]));
    await app.loadGraphData(workflow, true, true, workflow.id);
}"""
"""Give an API-format workflow the identity, the name and the room that saved ones have."""

KEPT = """() => {
    const drafts = [...Object.values(localStorage), ...Object.values(sessionStorage)];
    return drafts.some((draft) => {
        const plain = draft.replaceAll('\\\\"', '"');
        return plain.includes(app.graph.id) &&
            app.graph.nodes.every(({ id, type }) => plain.includes(`"id":${id},"type":"${type}"`));
    });
}"""
"""Whether the frontend has the workflow of now among its drafts, in whichever way it keeps them."""


OVERLAPS = """(least) => {
    const { ds } = app.canvas;
    const boxes = app.graph.nodes.map((node) => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
        if (drawn) {
            const { left, top, right, bottom } = drawn.getBoundingClientRect();
            return [left, top, right, bottom].map((length) => length / ds.scale);
        }
        const [x, y, width, height] = [...node.pos, ...node.size];
        return [x, y - LiteGraph.NODE_TITLE_HEIGHT, x + width, y + height];
    });
    const shared = (a, b, k) => Math.round(Math.min(a[k + 2], b[k + 2]) - Math.max(a[k], b[k]));
    return boxes.flatMap((a, i) => boxes.slice(0, i).flatMap((b, j) => {
        const [width, height] = [shared(a, b, 0), shared(a, b, 1)];
        const [one, other] = [j, i].map((k) => app.graph.nodes[k].title);
        return Math.min(width, height) > least
            ? [`${one} and ${other} share ${width} x ${height}`] : [];
    }));
}"""
"""Which nodes lie over each other, as large as they are drawn by the canvas or by Vue."""


class Tab:
    """ComfyUI in a browser's tab. `errors` are what its console tells in red of the pack's code."""

    def __init__(self, page: Page, server: ComfyUI) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.set_default_timeout(SLOW_MS)
        page.on("pageerror", lambda error: self._hear(f"{error.message} {error.stack}"))
        page.on("console", self._hear_console)

    def _hear_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._hear(f"{message.text} {message.location['url']}")

    def _hear(self, error: str) -> None:
        if PACK_NAME in error:
            self.errors.append(error)

    def open(self) -> None:
        """Load the page, or load it again."""
        self.page.goto(self.server.address)
        self.page.wait_for_function(READY)

    def keep(self) -> None:
        """Wait until the frontend has kept the workflow as a draft."""
        self.page.wait_for_function(KEPT)

    def reopen(self, kind: str, what: str) -> None:
        """Load the page again once the workflow is kept.

        Return when there is to be seen what is expected in the node of a kind.
        """
        self.keep()
        self.open()
        self.frame(kind)
        self.page.wait_for_selector(what)

    def setting(self, name: str, value: object) -> None:
        """Change one of the frontend's settings, for good."""
        change = "([name, value]) => app.ui.settings.setSettingValueAsync(name, value)"
        self.page.evaluate(change, [name, value])

    def build(self, prompt: dict[str, Any]) -> None:
        """Make the graph of an API-format workflow."""
        self.page.evaluate(LOAD, prompt)

    def run(self, kind: str, what: str) -> None:
        """Run the workflow until there is to be seen what is expected in the node of a kind."""
        self.frame(kind)  # what lies out of sight is not drawn
        self.page.evaluate("() => app.queuePrompt(0)")
        self.page.wait_for_selector(what)
        self.frame(kind)

    def frame(self, kind: str) -> None:
        """Bring the first node of a kind into the middle, large, as soon as there is one."""
        self.page.wait_for_function(
            """kind => {
                const node = app.graph.nodes.find((node) => node.type === kind);
                if (!node) return false;
                app.canvas.ds.scale = 1;
                app.canvas.centerOnNode(node);
                app.canvas.setDirty(true, true);
                return true;
            }""",
            arg=kind,
        )

    def overlapping(self) -> list[str]:
        """Return the pairs of nodes, by their titles, of which one hides a part of the other."""
        pairs: list[str] = self.page.evaluate(OVERLAPS, LEAST_OVERLAP)
        return pairs

    def picture(self, file: Path) -> None:
        """Keep what is to be seen, for whoever wants to look."""
        self.page.evaluate(DRAWN)
        self.page.screenshot(path=file)

    def contrast(self, what: Locator) -> float:
        """Return the contrast (WCAG 2.1) of the lightest and the darkest pixel of an element."""
        with Image.open(io.BytesIO(what.screenshot())) as seen:
            grey = np.asarray(seen.convert("L")) / 255
        light = ((grey + 0.055) / 1.055) ** 2.4
        return float((light.max() + 0.05) / (light.min() + 0.05))


def chromium() -> str | None:
    """Return the path of a Chromium that is installed here, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright, path: str) -> Browser:
    """Start a Chromium that asks nobody for anything."""
    return playwright.chromium.launch(executable_path=path, args=QUIET)


def greeted(context: BrowserContext, server: ComfyUI, *, vue: bool) -> None:
    """Pass the dialog that greets a first visitor, and have nodes drawn by Vue or the canvas."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue}
    context.request.post(f"{server.address}/api/settings", data=settings)


@contextmanager
def server_and_browser(frontend: Path | None) -> Iterator[tuple[ComfyUI, Browser]]:
    """Start a ComfyUI in a folder of its own, with this or its own frontend, and a Chromium.

    Ends the program with a sentence where none is installed.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise SystemExit("There is no Chromium here: install one.")
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyUI(Path(base), frontend) as server,
        sync_playwright() as playwright,
    ):
        browser = launch(playwright, path)
        yield server, browser
        browser.close()
