"""Grounded captions, whose phrases have boxes, and Kosmos-2's text format for them.

Kosmos-2 (Peng et al. 2023, "Kosmos-2: Grounding Multimodal Large Language Models to the World",
section 2) divides the image into a grid of 32x32 bins with a location token each. A box is two of
these, its upper left and its lower right bin, and follows its phrase:

    An image of<phrase> a dog</phrase><object><patch_index_0044><patch_index_0863></object> at rest.

Several boxes of one phrase are separated by `</delimiter_of_multi_objects/>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

BINS = 32
"""Bins along each side of the image."""

DELIMITER = "</delimiter_of_multi_objects/>"

_TAG = re.compile(
    r"<patch_index_(?P<bin>\d+)>"
    r"|</?(?:phrase|object|grounding|image|doc|chunk|line|s|pad|unk)>"
    rf"|{re.escape(DELIMITER)}"
)


class Box(NamedTuple):
    """A rectangle in fractions (0..1) of the image, x to the right and y down."""

    x0: float
    y0: float
    x1: float
    y1: float


class LabeledBox(NamedTuple):
    """A box, the text that names what is in it (may be empty), and the detector's score, 0..1."""

    box: Box
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption and its boxes in the image.

    `text` is `caption[start:end]`, without surrounding blanks; it is empty for boxes without a
    phrase. `boxes` is empty for a phrase without boxes.
    """

    text: str
    start: int
    end: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class GroundedText:
    """A caption in plain text, and its phrases in reading order, without overlap."""

    caption: str
    phrases: tuple[Phrase, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes of all phrases, in reading order."""
        return tuple(box for phrase in self.phrases for box in phrase.boxes)

    @property
    def labeled_boxes(self) -> list[LabeledBox]:
        """All boxes in reading order, labeled by their phrases; Kosmos-2 has no scores."""
        return [LabeledBox(box, phrase.text) for phrase in self.phrases for box in phrase.boxes]


@dataclass(frozen=True)
class Grounding:
    """The grounded caption of each image of a batch: what the GROUNDING socket carries."""

    captions: tuple[GroundedText, ...]


def tokens_to_box(first: int, last: int) -> Box:
    """Return the box from the bin `first` to the bin `last` (0..1023, row by row, either order).

    As in the published decoder, corners are the centres of the two bins, except that a box of a
    single row or column covers its bins entirely. Raises ValueError for a bin outside the grid.
    """
    for index in (first, last):
        if not 0 <= index < BINS * BINS:
            raise ValueError(f"There is no bin {index} in a grid of {BINS}x{BINS}.")
    (top, bottom), (left, right) = (
        sorted(pair) for pair in zip(divmod(first, BINS), divmod(last, BINS), strict=True)
    )
    inset = 0.5 if left < right and top < bottom else 0.0
    return Box(
        (left + inset) / BINS,
        (top + inset) / BINS,
        (right + 1 - inset) / BINS,
        (bottom + 1 - inset) / BINS,
    )


def box_to_tokens(box: Box) -> tuple[int, int]:
    """Return the upper left and the lower right bin that a box covers, as Kosmos-2 was trained.

    Coordinates are clipped to the image, and a box without area gets the bin that it lies in.
    """
    left, right = _bins(box.x0, box.x1)
    top, bottom = _bins(box.y0, box.y1)
    return top * BINS + left, bottom * BINS + right


def _bins(low: float, high: float) -> tuple[int, int]:
    low, high = sorted((low, high))
    first = min(max(math.floor(low * BINS), 0), BINS - 1)
    last = min(max(math.ceil(high * BINS) - 1, first), BINS - 1)
    return first, last


def parse(raw: str) -> GroundedText:
    """Parse the text that Kosmos-2 generated.

    Any text is accepted: tags without a partner, boxes of one or three tokens and bins outside the
    grid are dropped, and plain text is kept. Of a truncated text, all complete boxes are kept.
    """
    parser = _Parser()
    position = 0
    for tag in _TAG.finditer(raw):
        parser.text(raw[position : tag.start()])
        if tag["bin"]:
            parser.bin(int(tag["bin"]))
        else:
            parser.tag(tag[0])
        position = tag.end()
    parser.text(raw[position:])
    return parser.result()


class _Parser:
    """Collects the caption, phrases and boxes of tags and text from left to right."""

    def __init__(self) -> None:
        self._caption = ""
        self._spans: list[tuple[int, int, list[Box]]] = []
        self._phrase_start: int | None = None
        self._boxes: list[Box] | None = None  # of the open object
        self._pair: list[int] = []

    def text(self, text: str) -> None:
        if self._boxes is not None:
            if not text.strip():
                return  # some tokenizers decode blanks between the tokens of a box
            self._close_object()
        self._caption += text

    def bin(self, index: int) -> None:
        if self._boxes is not None:
            self._pair.append(index)

    def tag(self, tag: str) -> None:
        if tag == DELIMITER:
            self._close_box()
            return
        self._close_object()
        if tag == "<phrase>":
            self._phrase_start = len(self._caption)
        elif tag == "</phrase>":
            self._close_phrase()
        elif tag == "<object>":
            self._close_phrase()
            end = len(self._caption)
            if not self._spans or self._caption[self._spans[-1][1] : end].strip():
                self._spans.append((end, end, []))
            self._boxes = self._spans[-1][2]

    def _close_phrase(self) -> None:
        if self._phrase_start is not None:
            self._spans.append((self._phrase_start, len(self._caption), []))
            self._phrase_start = None

    def _close_box(self) -> None:
        pair, self._pair = self._pair, []
        if self._boxes is not None and len(pair) == 2 and max(pair) < BINS * BINS:
            self._boxes.append(tokens_to_box(*pair))

    def _close_object(self) -> None:
        self._close_box()
        self._boxes = None

    def result(self) -> GroundedText:
        self._close_object()
        caption = self._caption.strip()
        margin = len(self._caption) - len(self._caption.lstrip())
        phrases = []
        for start, end, boxes in self._spans:
            inside = self._caption[start:end]
            text = inside.strip()
            start += len(inside) - len(inside.lstrip()) if text else 0
            start = min(max(start - margin, 0), len(caption))
            if text or boxes:
                phrases.append(Phrase(text, start, start + len(text), tuple(boxes)))
        return GroundedText(caption, tuple(phrases))


def serialize(grounded: GroundedText) -> str:
    """Return a caption in Kosmos-2's text format, without the leading `<grounding>`.

    `parse` inverts it up to the rounding of boxes to bins. Raises ValueError when phrases overlap.
    """
    pieces = []
    position = 0
    for phrase in grounded.phrases:
        if phrase.start < position:
            raise ValueError(f'The phrase "{phrase.text}" overlaps the one before it.')
        before = grounded.caption[position : phrase.start]
        if phrase.text:
            # As in the training data, the blank before a phrase is inside its tag.
            stripped = before.rstrip()
            pieces += [stripped, "<phrase>", before[len(stripped) :], phrase.text, "</phrase>"]
        else:
            pieces.append(before)
        if phrase.boxes:
            pieces += ["<object>", _serialize_boxes(phrase.boxes), "</object>"]
        position = phrase.end
    return "".join([*pieces, grounded.caption[position:]])


def _serialize_boxes(boxes: Iterable[Box]) -> str:
    return DELIMITER.join(
        "".join(f"<patch_index_{index:04d}>" for index in box_to_tokens(box)) for box in boxes
    )
