"""Place the nodes of the saved workflows so that each is readable when its template opens.

Newer frontends fit a template into the window, whatever view it was saved with: text is as large as
the graph is compact. The note and the groups keep their order and the nodes their groups and sizes;
nodes that only pass something on are collapsed to their titles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .comfyui_server import ROOT

WINDOW = (1500, 1000)
FILL = 0.75
"""The part of the window that the frontend's `fitView` fills."""
BORDER = 10
"""What it adds around the nodes' bounding box, on each side."""

TITLE = 30
"""Height of a node's title, which lies above its position."""
SLOT, WIDGET = 20, 24
"""Height of an input or output, and of a widget."""
COLLAPSED_WIDTH = 250
GAP = 16
"""Between nodes, between a group's edge and its nodes, and between groups."""
GROUP_TITLE = 40

COLLAPSED = {
    "ConditioningCombine",
    "ConditioningSetMask",
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "ImageBatch",
    "ImageFromBatch",
    "ImageStitch",
    "InvertMask",
    "RebatchImages",
    "StringConcatenate",
    "ToComfyModel",
    "VAEDecode",
}
"""Types of nodes that only pass something on."""

ARRANGEMENTS = 60
"""How many arrangements of a part of the graph are tried in every larger part."""

Node = dict[str, Any]
Group = dict[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """The rectangle of a node with its title, of a group, or of several of them.

    `parts` are the rectangles inside, with the offset of their top left corners.
    """

    size: Size
    item: Node | Group | None = None
    parts: tuple[tuple[Box, tuple[int, int]], ...] = ()

    def place(self, left: int, top: int) -> None:
        """Move the nodes and groups so that the rectangle begins at this point."""
        if self.item is not None and "bounding" in self.item:
            self.item["bounding"] = [left, top, *self.size]
        elif self.item is not None:
            self.item["pos"] = [left, top + TITLE]
        for part, (x, y) in self.parts:
            part.place(left + x, top + y)


def main() -> None:
    """Lay out all workflows, and print the zoom at which each opens."""
    for file in sorted((ROOT / "workflows").glob("*.json")):
        workflow = json.loads(file.read_text(encoding="utf-8"))
        lay_out(workflow)
        file.write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")
        print(f"{zoom(workflow):.2f}  {len(workflow['nodes']):2} nodes  {file.stem}")


def drawn_size(node: Node) -> Size:
    """Width and height of a node with its title."""
    if node["flags"].get("collapsed"):
        return COLLAPSED_WIDTH, TITLE
    width, height = node["size"]
    return width, height + TITLE


def fitted_size(node: Node) -> Size:
    """A node's size when the frontend fits the view: it counts a collapsed one as if opened."""
    width, height = drawn_size(node)
    if node["flags"].get("collapsed"):
        slots = sum("widget" not in place for place in node["inputs"])
        height += SLOT * max(slots, len(node["outputs"])) + WIDGET * (len(node["inputs"]) - slots)
    return width, height


def bounds(workflow: dict[str, Any]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of all nodes."""
    boxes = []
    for node in workflow["nodes"]:
        (x, y), (width, height) = node["pos"], fitted_size(node)
        boxes.append((x, y - TITLE, x + width, y - TITLE + height))
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def zoom(workflow: dict[str, Any]) -> float:
    """The scale at which the frontend opens the workflow as a template, in `WINDOW`."""
    left, top, right, bottom = bounds(workflow)
    return _scale((right - left, bottom - top))


def lay_out(workflow: dict[str, Any]) -> None:
    """Place nodes and groups for the largest zoom, and save the view that shows all of them."""
    for node in workflow["nodes"]:
        if node["type"] in COLLAPSED:
            node["flags"] = {"collapsed": True}
        if node["flags"].get("collapsed"):
            node["size"] = [
                COLLAPSED_WIDTH,
                TITLE,
            ]  # counts when the view is fitted; opened, it grows
    nodes = sorted(workflow["nodes"], key=lambda node: (node["type"] != "MarkdownNote", node["id"]))
    members = [
        [node for node in nodes if _contains(group["bounding"], node["pos"])]
        for group in workflow["groups"]
    ]
    alone = [node for node in nodes if not any(node in inside for inside in members)]
    blocks = [[Box(drawn_size(node), node)] for node in alone]
    blocks += map(_grouped, workflow["groups"], members)
    max(arrangements(blocks), key=lambda box: _scale(box.size)).place(0, 0)
    left, top, right, bottom = bounds(workflow)
    scale = zoom(workflow)
    offset = [
        round(pixels / scale / 2 - (low + high) / 2)
        for pixels, low, high in zip(WINDOW, (left, top), (right, bottom), strict=True)
    ]
    workflow["extra"]["ds"] = {"scale": round(scale, 3), "offset": offset}


def _scale(size: Size) -> float:
    """The frontend's zoom for a bounding box of this size."""
    return min(
        FILL * pixels / (length + 2 * BORDER) for pixels, length in zip(WINDOW, size, strict=True)
    )


def _contains(bounding: list[int], position: list[int]) -> bool:
    (left, top, width, height), (x, y) = bounding, position
    return left <= x < left + width and top <= y < top + height


def _grouped(group: Group, nodes: list[Node]) -> list[Box]:
    """The arrangements of a group's nodes, with the group around them."""
    return [
        Box((width + 2 * GAP, height + 2 * GAP + GROUP_TITLE), group, ((box, (GAP, top)),))
        for top in [GAP + GROUP_TITLE]
        for box in arrangements([[Box(drawn_size(node), node)] for node in nodes])
        for width, height in [box.size]
    ]


def arrangements(blocks: list[list[Box]]) -> list[Box]:
    """The compact arrangements of blocks in reading order; of each block, one form is chosen.

    Neighbours are joined beside or below each other, and so are what results (a slicing floorplan).
    Of the arrangements of a part of the blocks, none is both wider and higher than another.
    """
    count = len(blocks)
    best = {(k, k + 1): _compact(forms) for k, forms in enumerate(blocks)}
    for length in range(2, count + 1):
        for first in range(count - length + 1):
            last = first + length
            best[first, last] = _compact(
                _joined(one, other, axis)
                for cut in range(first + 1, last)
                for one in best[first, cut]
                for other in best[cut, last]
                for axis in (0, 1)
            )
    return best[0, count]


def _joined(one: Box, other: Box, axis: int) -> Box:
    """Two rectangles beside (`axis` 0) or below each other."""
    start = one.size[axis] + GAP
    length, thickness = start + other.size[axis], max(one.size[1 - axis], other.size[1 - axis])
    if axis == 0:
        return Box((length, thickness), None, ((one, (0, 0)), (other, (start, 0))))
    return Box((thickness, length), None, ((one, (0, 0)), (other, (0, start))))


def _compact(boxes: Iterable[Box]) -> list[Box]:
    """At most `ARRANGEMENTS` boxes into which no other fits, from the narrowest to the lowest."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: box.size):
        if not kept or box.size[1] < kept[-1].size[1]:
            kept.append(box)
    return kept[:: len(kept) // ARRANGEMENTS + 1]
