"""A set of captioned images in the two files of the COCO format.

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
    """An image of the set: its file name, its size in pixels, and its caption with boxes."""

    file_name: str
    width: int
    height: int
    text: GroundedText


def coco_instances(images: Sequence[CaptionedImage]) -> dict[str, object]:
    """Return the instances file: an annotation for each box, [x, y, width, height] in pixels.

    Categories are the phrases without article or number; the extra key `phrase` is the whole one.
    """
    boxes = [
        (k, phrase.text, box)
        for k, image in enumerate(images, 1)
        for phrase in image.text.phrases
        for box in phrase.boxes
    ]
    names = sorted({category_name(text) for _, text, _ in boxes})
    annotations = []
    for number, (k, text, box) in enumerate(boxes, 1):
        image = images[k - 1]
        x, y = box.x0 * image.width, box.y0 * image.height
        width, height = (box.x1 - box.x0) * image.width, (box.y1 - box.y0) * image.height
        annotations.append(
            {
                "id": number,
                "image_id": k,
                "category_id": names.index(category_name(text)) + 1,
                "bbox": [round(value, 2) for value in (x, y, width, height)],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "phrase": text,
            }
        )
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    return {"images": _images(images), "annotations": annotations, "categories": categories}


def coco_captions(images: Sequence[CaptionedImage]) -> dict[str, object]:
    """Return the captions file: an annotation for each image."""
    annotations = [
        {"id": k, "image_id": k, "caption": image.text.caption} for k, image in enumerate(images, 1)
    ]
    return {"images": _images(images), "annotations": annotations}


def category_name(phrase: str) -> str:
    """Return a phrase in lower case, without article or number."""
    return _ARTICLE.sub("", phrase).lower() or phrase.lower()


def _images(images: Sequence[CaptionedImage]) -> list[dict[str, object]]:
    return [
        {"id": k, "file_name": image.file_name, "width": image.width, "height": image.height}
        for k, image in enumerate(images, 1)
    ]
