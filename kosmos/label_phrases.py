"""Make a grounded caption of a text and labeled boxes, as other captioners and detectors give."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .grounding import Box, GroundedText, LabeledBox, Phrase

_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)


def ground_labels(caption: str, boxes: Sequence[LabeledBox]) -> GroundedText:
    """Return a caption whose phrases are the labels of boxes.

    A label matches the caption as whole words, ignoring case and blanks, with its article or
    without; longer labels match first. A label that has no place of its own belongs to the longer
    phrase that contains it ("dog" to "a red dog"). The boxes of a label that is not in the
    caption, and boxes without a label, follow it as a phrase without text. An empty caption becomes
    the labels, joined by commas.
    """
    caption = caption.strip() or ", ".join(dict.fromkeys(box.label for box in boxes if box.label))
    spans: dict[tuple[int, int], list[Box]] = {}
    for label in sorted({box.label for box in boxes}, key=lambda label: (-len(label), label)):
        span = _find(caption, label, list(spans)) or (len(caption), len(caption))
        spans.setdefault(span, []).extend(box.box for box in boxes if box.label == label)
    return GroundedText(
        caption,
        tuple(
            Phrase(caption[start:end], start, end, tuple(of_phrase))
            for (start, end), of_phrase in sorted(spans.items())
        ),
    )


def labels_without_phrase(text: GroundedText, boxes: Sequence[LabeledBox]) -> list[str]:
    """Return the labels of boxes that `ground_labels` found no place for."""
    without = {box for phrase in text.phrases if not phrase.text for box in phrase.boxes}
    return sorted({box.label for box in boxes if box.label and box.box in without})


def _find(caption: str, label: str, taken: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return where a label is in a caption: outside of the places taken, else one of these."""
    for name in (label, _ARTICLE.sub("", label.strip(), count=1)):
        words = r"\s+".join(map(re.escape, name.split()))
        pattern = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
        places = [match.span() for match in pattern.finditer(caption)] if name.strip() else []
        for start, end in places:
            if all(end <= first or last <= start for first, last in taken):
                return start, end
        for start, end in places:
            for first, last in taken:
                if first <= start and end <= last:
                    return first, last
    return None
