"""What the extension in web/ adds to ComfyUI's page, and how a long batch scrolls in its panel.

The page is loaded with the pack's module and, turn by turn, with the module blocked; its own share
is what a profiler finds in scripts of its address. Scrolling is read from a trace of all tasks.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ...sandbox.world.scene import HELD_OUT
from ..demo.browser_tab import Tab, greeted, server_and_browser
from ..demo.comfyui_server import PACK_NAME, ROOT, ComfyUI
from ..sandbox.scene_pool import draw_sample
from .timing import environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

log = logging.getLogger(__name__)

MODULE = f"/extensions/{PACK_NAME}/kosmos_dreambooth.js"
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
FIRST = "() => performance.now()"
PICTURES = 64
LONG_MS = 100

CATEGORIES = ["-*", "toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]
"""Without the profiler, whose start would be the longest task."""

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
    for node in profile["nodes"]:  # a node comes before its children
        if node["id"] in inside or PACK_NAME in node["callFrame"]["url"]:
            inside |= {node["id"], *node.get("children", ())}
    spans = zip(profile["samples"], profile["timeDeltas"], strict=True)
    return sum(span for sample, span in spans if sample in inside) / 1000


def told(name: str, values: list[float], unit: str) -> None:
    """Log a middle and what it lies between."""
    spread = f"{min(values):.1f} to {max(values):.1f}"
    log.info("%-58s %8.1f %s (%s)", name, statistics.median(values), unit, spread)


def load_page(browser: Browser, server: ComfyUI, repeats: int) -> None:
    """Log what the extension adds to the page while it is loaded."""
    files = [file for file in (ROOT / "web").iterdir() if file.suffix in (".js", ".css")]
    size = sum(file.stat().st_size for file in files)
    log.info(
        "%-58s %8.1f kB in %d files", "The extension's scripts and styles", size / 1000, len(files)
    )
    context = browser.new_context(viewport={"width": 1400, "height": 1200})

    seconds: dict[bool, list[float]] = {True: [], False: []}
    ready: dict[bool, list[float]] = {True: [], False: []}
    spent = []
    for _ in range(repeats + 1):
        for there in (True, False):
            page = context.new_page()
            if not there:  # a route of Playwright's would switch the browser's cache off
                network = context.new_cdp_session(page)
                network.send("Network.enable")
                network.send("Network.setBlockedURLs", {"urls": [f"*{MODULE}"]})
            tab = Tab(page, server)
            tab.open()
            ready[there].append(page.evaluate(FIRST))
            seconds[there].append(page.evaluate(PAINTED))
            if there and tab.errors:
                raise RuntimeError(f"The console shows errors: {tab.errors}")
            page.close()
        page = context.new_page()
        spent.append(profiled(page, Tab(page, server).open))
        page.close()
    context.close()
    # The first turn fills the browser's cache.
    told("First paint with the extension", seconds[True][1:], "ms")
    told("  added to the page without it, turn by turn", _added(seconds), "ms")
    told("Ready with the extension", ready[True][1:], "ms")
    told("  added to the page without it, turn by turn", _added(ready), "ms")
    told("Time in the extension's scripts until then", spent[1:], "ms")


def _added(turns: dict[bool, list[float]]) -> list[float]:
    return [a - b for a, b in zip(turns[True][1:], turns[False][1:], strict=True)]


def scroll(browser: Browser, server: ComfyUI, repeats: int) -> None:
    """Log the longest task while a batch of 64 is gone through picture by picture."""
    Image.fromarray(draw_sample(HELD_OUT, 512, 2).pixels).save(server.input / "scrolled.png")
    context = browser.new_context(viewport={"width": 1400, "height": 1200})
    tab = Tab(context.new_page(), server)
    tab.open()
    tab.build(_many())
    tab.run("GroundedCaption", ".kd-box")
    slider = tab.page.get_by_label("Image of the batch")
    slider.focus()

    def through() -> None:
        tab.page.keyboard.press("Home")
        for _ in range(PICTURES - 1):
            tab.page.keyboard.press("ArrowRight")
        if tab.page.inner_text(".kd-pager output") != f"{PICTURES} / {PICTURES}":
            raise RuntimeError("The batch was not gone through.")

    longest, busy, long = [], [], 0
    for _ in range(repeats):
        tasks = traced(browser, tab.page, through)
        lengths = [e["dur"] / 1000 for e in tasks]
        longest.append(max(lengths))
        busy.append(max(e.get("tdur", 0) / 1000 for e in tasks))
        long += sum(length > LONG_MS for length in lengths)
    told(f"Longest task while {PICTURES} pictures are gone through", longest, "ms")
    told("  of which on the processor", busy, "ms")
    log.info(
        "%-58s %8d in %d times %d pictures", f"Tasks over {LONG_MS} ms", long, repeats, PICTURES
    )
    log.info("%-58s %8d", "Errors in the console", len(tab.errors))
    context.close()


def _many() -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "scrolled.png"}},
        "2": {
            "class_type": "RepeatImageBatch",
            "inputs": {"image": ["1", 0], "amount": PICTURES},
        },
        "3": {
            "class_type": "LoadKosmos",
            "inputs": {"model": "sandbox", "dtype": "auto", "attention": "auto"},
        },
        "4": {
            "class_type": "GroundedCaption",
            "inputs": {
                "kosmos": ["3", 0],
                "image": ["2", 0],
                "style": "brief",
                "prompt": "",
                "max_new_tokens": 64,
                "batch_size": 0,
            },
        },
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="turns, after a first one")
    parser.add_argument("--frontend", type=Path, help="folder of another frontend to measure with")
    parser.add_argument("--vue", action="store_true", help="let Vue draw the nodes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with server_and_browser(options.frontend) as (server, browser):
        greeted(browser.new_context(), server, vue=options.vue)
        load_page(browser, server, options.repeats)
        scroll(browser, server, options.repeats)
        log.info("Chromium %s, %s", browser.version, environment(torch.device("cpu")))
