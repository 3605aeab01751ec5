"""Captions with their boxes as JSON: what is saved beside pictures, and read by other programs."""

from __future__ import annotations

import json

from ...shared.errors import UserError
from ..grounding import Box, GroundedText, Phrase


def grounded_text_to_dict(seen: GroundedText, width: int, height: int) -> dict[str, object]:
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


def grounded_text_to_json(seen: GroundedText, width: int, height: int) -> str:
    """Return `grounded_text_to_dict` as a text."""
    return json.dumps(grounded_text_to_dict(seen, width, height), ensure_ascii=False, indent=1)


def grounded_text_from_json(text: str, name: str) -> GroundedText:
    """Read what `grounded_text_to_json` wrote, from a file of a name.

    Raises UserError when it is something else.
    """
    try:
        told = json.loads(text)
        phrases = tuple(
            Phrase(
                str(phrase["text"]),
                int(phrase["start"]),
                int(phrase["end"]),
                tuple(Box(*map(float, box)) for box in phrase["boxes"]),
            )
            for phrase in told["phrases"]
        )
        return GroundedText(str(told["caption"]), phrases)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{name} holds no caption with phrases and boxes: remove it, or let SaveCaptions write "
            "it again."
        ) from error
