"""Captions with their boxes as JSON: what is saved beside pictures, and read by other programs."""

from __future__ import annotations

import json

from .grounding import GroundedText


def record(seen: GroundedText, width: int, height: int) -> dict[str, object]:
    """Return a caption as plain data.

    `width` and `height` are the picture's, in pixels. A phrase is `caption[start:end]`; boxes are
    [x0, y0, x1, y1] in 0..1 of the picture.
    """
    return {
        "caption": seen.caption,
        "width": width,
        "height": height,
        "phrases": [
            {
                "text": phrase.text,
                "start": phrase.start,
                "end": phrase.end,
                "boxes": [[round(edge, 6) for edge in box] for box in phrase.boxes],
            }
            for phrase in seen.phrases
        ],
    }


def as_json(seen: GroundedText, width: int, height: int) -> str:
    """Return `record` as a text."""
    return json.dumps(record(seen, width, height), ensure_ascii=False, indent=1)
