"""Captions with boxes as JSON, as saved next to images and read by other programs."""

from __future__ import annotations

import json

from ...shared.errors import UserError
from ...shared.json_files import parse_json
from ..grounding import Box, GroundedText, Phrase


def grounded_text_to_dict(text: GroundedText, width: int, height: int) -> dict[str, object]:
    """Return a caption with boxes as JSON data.

    `width` and `height` are those of the image in pixels. A phrase is `caption[start:end]`; boxes
    are [x0, y0, x1, y1], relative to the image, 0..1.
    """
    return {
        "caption": text.caption,
        "width": width,
        "height": height,
        "phrases": [
            {
                "text": phrase.text,
                "start": phrase.start,
                "end": phrase.end,
                "boxes": [[round(edge, 6) for edge in box] for box in phrase.boxes],
            }
            for phrase in text.phrases
        ],
    }


def grounded_text_to_json(text: GroundedText, width: int, height: int) -> str:
    """Return the data of `grounded_text_to_dict` as JSON text."""
    return json.dumps(grounded_text_to_dict(text, width, height), ensure_ascii=False, indent=1)


def grounded_text_from_json(text: str, name: str) -> GroundedText:
    """Parse the output of `grounded_text_to_json`, read from a file called `name`.

    Raises UserError for anything else.
    """
    try:
        data = parse_json(text)
        phrases = tuple(
            Phrase(
                str(phrase["text"]),
                int(phrase["start"]),
                int(phrase["end"]),
                tuple(Box(*map(float, box)) for box in phrase["boxes"]),
            )
            for phrase in data["phrases"]
        )
        return GroundedText(_checked(data["caption"], phrases), phrases)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(
            f"{name} is not a caption with phrases and boxes: remove it, or write it again with "
            "SaveCaptions."
        ) from error


def _checked(caption: object, phrases: tuple[Phrase, ...]) -> str:
    """Return the caption; raises ValueError unless it is a text with these phrases in the image."""
    if not isinstance(caption, str):
        raise ValueError("the caption is no text")
    for phrase in phrases:
        if not 0 <= phrase.start <= phrase.end <= len(caption):
            raise ValueError("a phrase is outside the caption")
        if not all(0 <= edge <= 1 for box in phrase.boxes for edge in box):
            raise ValueError("a box is outside the image")
    return caption
