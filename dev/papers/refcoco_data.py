"""RefCOCO, RefCOCO+ and RefCOCOg: objects, their boxes and the expressions that refer to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...kosmos.grounding import Box
from ...shared.errors import UserError


@dataclass(frozen=True)
class Reference:
    """An object: its image file, its box relative to the image, and its expressions."""

    key: str
    file: str
    box: Box
    expressions: tuple[str, ...]


def read_references(folder: Path, split: str) -> list[Reference]:
    """Return the objects of a split (val, testA, testB; of RefCOCOg val, test).

    The folder is that of one data set, as published: `instances.json`, and `refs(unc)` or, for
    RefCOCOg, `refs(umd)` as JSON. Raises UserError when one is missing, or the split is empty.
    """
    files = sorted([*folder.glob("refs(u*).json")])
    if not files:
        raise UserError(
            f'"{folder}" has no refs(unc).json or refs(umd).json: convert the published .p file, '
            "which is never loaded here, as docs/papers.md shows."
        )
    instances = _read(folder / "instances.json")
    images = {image["id"]: image for image in instances["images"]}
    boxes = {one["id"]: one["bbox"] for one in instances["annotations"]}
    references = []
    for ref in _read(files[0]):
        if ref["split"] == split:
            image = images[ref["image_id"]]
            x, y, w, h = boxes[ref["ann_id"]]
            width, height = image["width"], image["height"]
            box = Box(x / width, y / height, (x + w) / width, (y + h) / height)
            expressions = tuple(sentence["sent"] for sentence in ref["sentences"])
            references.append(Reference(str(ref["ref_id"]), image["file_name"], box, expressions))
    if not references:
        raise UserError(f'"{files[0].name}" has no split "{split}": choose another --split.')
    return references


def image_file(images: Path, name: str) -> Path:
    """Return the file of a COCO image in `images`, or in its folder train2014 or val2014."""
    inner = images / ("train2014" if "train2014" in name else "val2014") / name
    return inner if inner.exists() else images / name


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f'"{file}" is missing or broken: unpack the data set again.') from error
