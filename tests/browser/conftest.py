"""A real browser on the real server; these tests are passed over where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kosmos_dreambooth.demo.comfyui import PACK_NAME, ComfyUI

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

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
SLOW_MS = 90_000
"""How long the browser is waited for: tests share their cores with training."""

DRAFT_MS = 2_000

READY = "() => window.app?.graph && window.app.extensionManager"


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

    def reopen(self) -> None:
        """Load the page again as soon as the frontend has kept the workflow as a draft."""
        self.page.wait_for_timeout(DRAFT_MS)
        self.open()

    def setting(self, name: str, value: object) -> None:
        """Change one of the frontend's settings, for good."""
        change = "([name, value]) => app.ui.settings.setSettingValueAsync(name, value)"
        self.page.evaluate(change, [name, value])

    def build(self, prompt: dict[str, Any]) -> None:
        """Make the graph of an API-format workflow."""
        self.page.evaluate("prompt => app.loadApiJson(prompt, 'test')", prompt)

    def queue(self) -> None:
        """Press Run."""
        self.page.evaluate("() => app.queuePrompt(0)")

    def frame(self, kind: str) -> None:
        """Bring the first node of a kind into the middle, large."""
        self.page.evaluate(
            """kind => {
                const node = app.graph.nodes.find((node) => node.type === kind);
                app.canvas.ds.scale = 1;
                app.canvas.centerOnNode(node);
                app.canvas.setDirty(true, true);
            }""",
            kind,
        )

    def picture(self, file: Path) -> None:
        """Keep what is to be seen, for whoever wants to look."""
        self.page.screenshot(path=file)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed here; nothing is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed.")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"No browser is installed: none of {', '.join(NAMES)}.")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="module")
def tab(browser: Browser, server: ComfyUI) -> Iterator[Tab]:
    """A tab for the tests of a file, past the dialog that greets a first visitor."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 1000},
        permissions=["clipboard-read", "clipboard-write"],
    )
    greeted = {"Comfy.TutorialCompleted": True}
    context.request.post(f"{server.address}/api/settings", data=greeted)
    opened = Tab(context.new_page(), server)
    opened.open()
    yield opened
    context.close()
