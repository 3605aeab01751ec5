"""A real browser on the real server; these tests are passed over where there is none."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kosmos_dreambooth.demo.comfyui import PACK_NAME, ROOT, ComfyUI
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

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

NEWEST = ROOT / ".cache" / "frontend" / "comfyui_frontend_package" / "static"
"""A newer frontend than ComfyUI's own; `make browser` unpacks it."""

FACES = ["pinned-classic", "pinned-vue", "newest-classic", "newest-vue"]
"""The frontend that ComfyUI pins and the newest one; nodes drawn on the canvas and by Vue."""

FIRST_AND_LAST = [FACES[0], FACES[-1]]

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

    def reopen(self, kind: str, what: str) -> None:
        """Load the page again once the frontend has kept the workflow as a draft.

        Return when there is to be seen what is expected in the node of a kind.
        """
        self.page.wait_for_function(KEPT)
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

    def picture(self, file: Path) -> None:
        """Keep what is to be seen, for whoever wants to look."""
        self.page.screenshot(path=file)

    def contrast(self, what: Locator) -> float:
        """Return the contrast (WCAG 2.1) of the lightest and the darkest pixel of an element."""
        grey = Image.open(io.BytesIO(what.screenshot())).convert("L")
        darkest, lightest = (((level / 255 + 0.055) / 1.055) ** 2.4 for level in grey.getextrema())
        return (lightest + 0.05) / (darkest + 0.05)


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


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """The same server with the newest frontend."""
    if not NEWEST.exists():
        pytest.skip("No newer frontend is unpacked: `make browser` fetches one.")
    with ComfyUI(tmp_path_factory.mktemp("newest"), NEWEST) as running:
        yield running


@pytest.fixture(scope="module", params=FACES)
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab for the tests of a file, past the dialog that greets a first visitor."""
    frontend, _, nodes = request.param.partition("-")
    server = request.getfixturevalue("newest_server" if frontend == "newest" else "server")
    context = browser.new_context(
        viewport={"width": 1400, "height": 1200},
        permissions=["clipboard-read", "clipboard-write"],
    )
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes == "vue"}
    context.request.post(f"{server.address}/api/settings", data=settings)
    opened = Tab(context.new_page(), server)
    opened.open()
    yield opened
    context.close()
