"""Measure what web/ adds to ComfyUI's page load, and the longest task while a batch is scrolled.

The page is loaded with the pack's module and, in turn, with the module blocked; the module's own
time is measured by a profiler. Scrolling is measured by a trace of all tasks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...sandbox.world.scene import HELD_OUT
from ..command_line import parse_arguments
from ..demo.browser_tab import Tab, configure, server_and_browser
from ..demo.comfyui_server import PACK_NAME, ROOT, ComfyUI
from ..demo.server_client import node
from ..sandbox.scene_pool import draw_sample
from .timing import environment, median_range

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

log = logging.getLogger(__name__)

MODULE = f"/extensions/{PACK_NAME}/kosmos_dreambooth.js"
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
NOW = "() => performance.now()"
IMAGES = 64
LONG_MS = 100

CATEGORIES = ["-*", "toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]
"""Without the profiler, whose start is the longest task."""

Event = dict[str, Any]


def traced(browser: Browser, page: Page, work: Callable[[], object]) -> list[Event]:
    """Return the tasks of the page's main thread while `work` is done."""
    browser.start_tracing(page=page, categories=CATEGORIES)
    work()
    events: list[Event] = json.loads(browser.stop_tracing())["traceEvents"]
    names = [e for e in events if e.get("name") == "thread_name"]
    mains = {(e["pid"], e["tid"]) for e in names if e["args"].get("name") == "CrRendererMain"}
    return [
        e
        for e in events
        if (e["pid"], e["tid"]) in mains and e.get("name") == "RunTask" and "dur" in e
    ]


def profiled(page: Page, work: Callable[[], object]) -> float:
    """Return the milliseconds in which the pack's own scripts ran while `work` was done."""
    session = page.context.new_cdp_session(page)
    session.send("Profiler.enable")
    session.send("Profiler.setSamplingInterval", {"interval": 100})
    session.send("Profiler.start")
    work()
    profile = session.send("Profiler.stop")["profile"]
    inside = set()
    for call in profile["nodes"]:  # parents come before their children
        if call["id"] in inside or PACK_NAME in call["callFrame"]["url"]:
            inside |= {call["id"], *call.get("children", ())}
    spans = zip(profile["samples"], profile["timeDeltas"], strict=True)
    return sum(span for sample, span in spans if sample in inside) / 1000


def report(name: str, milliseconds: list[float]) -> None:
    """Log median and range."""
    log.info("%-58s %s ms", name, median_range(milliseconds, 1))


def load_page(browser: Browser, server: ComfyUI, repeats: int) -> None:
    """Log what the extension adds to the page while it is loaded."""
    files = [file for file in (ROOT / "web").iterdir() if file.suffix in (".js", ".css")]
    size = sum(file.stat().st_size for file in files)
    log.info(
        "%-58s %8.1f kB in %d files", "The extension's scripts and styles", size / 1000, len(files)
    )
    context = browser.new_context(viewport={"width": 1400, "height": 1200})

    first_paint: dict[bool, list[float]] = {True: [], False: []}
    ready: dict[bool, list[float]] = {True: [], False: []}
    own = []
    for _ in range(repeats + 1):
        for enabled in (True, False):
            page = context.new_page()
            if not enabled:  # a Playwright route would disable the browser's cache
                network = context.new_cdp_session(page)
                network.send("Network.enable")
                network.send("Network.setBlockedURLs", {"urls": [f"*{MODULE}"]})
            tab = Tab(page, server)
            tab.open()
            ready[enabled].append(page.evaluate(NOW))
            first_paint[enabled].append(page.evaluate(FIRST_PAINT))
            if enabled and tab.errors:
                raise RuntimeError(f"The console shows errors: {tab.errors}")
            page.close()
        page = context.new_page()
        own.append(profiled(page, Tab(page, server).open))
        page.close()
    context.close()
    # The first turn fills the browser's cache.
    report("First paint with the extension", first_paint[True][1:])
    report("  added to the page without it, turn by turn", _added(first_paint))
    report("Ready with the extension", ready[True][1:])
    report("  added to the page without it, turn by turn", _added(ready))
    report("Time in the extension's scripts until then", own[1:])


def _added(turns: dict[bool, list[float]]) -> list[float]:
    return [a - b for a, b in zip(turns[True][1:], turns[False][1:], strict=True)]


def scroll(browser: Browser, server: ComfyUI, repeats: int) -> None:
    """Log the longest task while a batch of 64 is scrolled image by image."""
    Image.fromarray(draw_sample(HELD_OUT, 512, 2).pixels).save(server.input / "scrolled.png")
    context = browser.new_context(viewport={"width": 1400, "height": 1200})
    tab = Tab(context.new_page(), server)
    tab.open()
    tab.build(_batch_workflow())
    tab.run("GroundedCaption", ".kd-box")
    slider = tab.page.get_by_label("Image of the batch")
    slider.focus()

    def scroll_through() -> None:
        tab.page.keyboard.press("Home")
        for _ in range(IMAGES - 1):
            tab.page.keyboard.press("ArrowRight")
        if tab.page.inner_text(".kd-pager output") != f"{IMAGES} / {IMAGES}":
            raise RuntimeError("The batch was not scrolled to its end.")

    longest, busy, long = [], [], 0
    for _ in range(repeats):
        tasks = traced(browser, tab.page, scroll_through)
        lengths = [e["dur"] / 1000 for e in tasks]
        longest.append(max(lengths))
        busy.append(max(e.get("tdur", 0) / 1000 for e in tasks))
        long += sum(length > LONG_MS for length in lengths)
    report(f"Longest task while {IMAGES} images are scrolled", longest)
    report("  of which on the processor", busy)
    log.info("%-58s %8d in %d times %d images", f"Tasks over {LONG_MS} ms", long, repeats, IMAGES)
    log.info("%-58s %8d", "Errors in the console", len(tab.errors))
    context.close()


def _batch_workflow() -> dict[str, Any]:
    return {
        "1": node("LoadImage", image="scrolled.png"),
        "2": node("RepeatImageBatch", image=["1", 0], amount=IMAGES),
        "3": node("LoadKosmos", model="sandbox", dtype="auto", attention="auto"),
        "4": node(
            "GroundedCaption",
            kosmos=["3", 0],
            image=["2", 0],
            style="brief",
            prompt="",
            max_new_tokens=64,
            batch_size=0,
        ),
    }


def main() -> None:
    """Measure loading and scrolling."""
    options = parse_arguments(
        __doc__,
        repeats=(10, "turns, after a first one"),
        frontend={"type": Path, "help": "folder of another frontend to measure with"},
        vue=(False, "let Vue draw the nodes"),
    )
    with server_and_browser(options.frontend) as (server, browser):
        configure(browser.new_context(), server, vue=options.vue)
        load_page(browser, server, options.repeats)
        scroll(browser, server, options.repeats)
        log.info("Chromium %s, %s", browser.version, environment())
