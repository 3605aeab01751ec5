"""A set of captioned pictures in the two files of the COCO format.

Lin et al. 2014, arXiv:1405.0312; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..grounding import GroundedText

_ARTICLE = re.compile(r"^(?:an?|the|some|one|two|three|four|five|several|many)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionedImage:
    """A picture of the set: its file's name in the set, its size in pixels, and what was seen."""

    file_name: str
    width: int
    height: int
    seen: GroundedText


def coco_instances(entries: Sequence[CaptionedImage]) -> dict[str, object]:
    """Return the boxes: one annotation for each, [x, y, width, height] in pixels.

    Categories are the phrases without article or number; each annotation has its phrase besides.
    """
    boxes = [
        (k, phrase.text, box)
        for k, entry in enumerate(entries, 1)
        for phrase in entry.seen.phrases
        for box in phrase.boxes
    ]
    names = sorted({category_name(text) for _, text, _ in boxes})
    annotations = []
    for number, (k, text, box) in enumerate(boxes, 1):
        width, height = entries[k - 1].width, entries[k - 1].height
        wide, high = (box.x1 - box.x0) * width, (box.y1 - box.y0) * height
        corner = (box.x0 * width, box.y0 * height)
        annotations.append(
            {
                "id": number,
                "image_id": k,
                "category_id": names.index(category_name(text)) + 1,
                "bbox": [round(value, 2) for value in (*corner, wide, high)],
                "area": round(wide * high, 2),
                "iscrowd": 0,
                "phrase": text,
            }
        )
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    return {"images": _images(entries), "annotations": annotations, "categories": categories}


def coco_captions(entries: Sequence[CaptionedImage]) -> dict[str, object]:
    """Return the captions: one annotation for each picture."""
    annotations = [
        {"id": k, "image_id": k, "caption": entry.seen.caption}
        for k, entry in enumerate(entries, 1)
    ]
    return {"images": _images(entries), "annotations": annotations}


def category_name(phrase: str) -> str:
    """Return a phrase in small letters, without its article or number."""
    return _ARTICLE.sub("", phrase).lower() or phrase.lower()


def _images(entries: Sequence[CaptionedImage]) -> list[dict[str, object]]:
    return [
        {"id": k, "file_name": entry.file_name, "width": entry.width, "height": entry.height}
        for k, entry in enumerate(entries, 1)
    ]
