"""Describe regions of images."""

from __future__ import annotations

from collections.abc import Sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ..grounding import Box, GroundedText, Phrase, serialize
from ..kosmos_model import Kosmos
from ..prompt import tokenize_to_complete
from .completion import generate_text
from .encoded_images import EncodedImages

PREFIX = "It is"


def region_text(box: Box) -> str:
    """Return the published model's prompt for a region: `<phrase> It</phrase>`, its box, "is"."""
    prefix = GroundedText(PREFIX, (Phrase("It", 0, 2, (box,)),))
    # As in training there is a blank before "It", inside the tag.
    return serialize(prefix).replace("<phrase>", "<phrase> ")


def describe_regions(
    kosmos: Kosmos,
    images: EncodedImages,
    regions: Sequence[Sequence[Box]],
    *,
    max_new_tokens: int = 32,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[str]]:
    """Return a description of each region of each image, such as "a red dog.".

    `regions` has any number of boxes for each image; the result has the same shape. Boxes are
    rounded outwards to the 32 by 32 grid of Kosmos-2. `batching` counts regions. Raises UserError
    as `tokenize` and `generate` do.
    """
    prompts = [
        [tokenize_to_complete(kosmos, region_text(box), max_new_tokens) for box in boxes]
        for boxes in regions
    ]
    texts = generate_text(kosmos, images, prompts, max_new_tokens=max_new_tokens, batching=batching)
    return [[text.caption.removeprefix(PREFIX).strip() for text in row] for row in texts]


def join_descriptions(boxes: Sequence[Box], texts: Sequence[str]) -> GroundedText:
    """Join the descriptions of an image's regions into a text, each a phrase with its box."""
    caption = ""
    phrases = []
    for box, text in zip(boxes, texts, strict=True):
        name = text.rstrip(".")
        start = len(caption) + (1 if caption else 0)
        phrases.append(Phrase(name, start, start + len(name), (box,)))
        caption = f"{caption} {text}" if caption else text
    return GroundedText(caption, tuple(phrases))
