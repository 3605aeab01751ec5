"""Saved workflows are laid out for the window of a frontend that fits templates into it."""

from __future__ import annotations

import copy
import json
from itertools import combinations
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo import layout_workflows
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT

READABLE = 0.5
"""The zoom from which the frontends draw text; longer workflows fold nodes into subgraphs."""

TITLE_WIDTH = 12.5
"""Of a character of a group's title, in pixels of the graph: 24 points of a sans-serif font."""

every_workflow = pytest.mark.parametrize(
    "workflow",
    [
        pytest.param(json.loads(file.read_text(encoding="utf-8")), id=file.stem)
        for file in sorted(Path(ROOT / "workflows").glob("*.json"))
    ],
)


@every_workflow
def test_the_layout_is_up_to_date_and_changes_only_positions(workflow: dict) -> None:
    again = copy.deepcopy(workflow)
    layout_workflows.lay_out(again)
    assert again == workflow


@every_workflow
def test_a_template_opens_at_a_readable_zoom(workflow: dict) -> None:
    left, top, right, bottom = layout_workflows.bounds(workflow)
    fitted = min(0.75 * 1500 / (right - left + 20), 0.75 * 1000 / (bottom - top + 20))
    assert layout_workflows.zoom(workflow) == pytest.approx(fitted)
    assert fitted >= READABLE


@every_workflow
def test_the_note_is_first_and_nodes_do_not_overlap(workflow: dict) -> None:
    boxes = {}
    for node in workflow["nodes"]:
        (x, y), (width, height) = node["pos"], layout_workflows.drawn_size(node)
        boxes[node["id"]] = (x, y - 30, x + width, y - 30 + height)
        if node["type"] == "MarkdownNote":
            assert boxes[node["id"]][:2] == layout_workflows.bounds(workflow)[:2]
    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        boxes[group["title"]] = (x, y, x + width, y + height)
        assert len(group["title"]) * TITLE_WIDTH <= width, f"{group['title']} is cut off"
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        inside = b[0] < a[0] and b[1] < a[1] and a[2] < b[2] and a[3] < b[3]
        assert apart or inside, f"{one} and {other} overlap"
