"""Describe what is in a region of a picture."""

from __future__ import annotations

from collections.abc import Sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ..grounding import Box, GroundedText, Phrase, parse, write
from ..kosmos_model import Kosmos
from ..prompt import Prompt, read_text, tokenize
from .completion import generate
from .encoded_images import EncodedImages

OPENING = "It is"


def region_prompt(kosmos: Kosmos, box: Box, max_new_tokens: int) -> Prompt:
    """Return the prompt that the published model names a region by: `<phrase> It</phrase>`, the
    region's box, and "is"."""
    opening = GroundedText(OPENING, (Phrase("It", 0, 2, (box,)),))
    # As in training there is a blank in front of "It", inside the tag.
    return tokenize(kosmos, write(opening).replace("<phrase>", "<phrase> "), max_new_tokens)


def describe_regions(
    kosmos: Kosmos,
    pictures: EncodedImages,
    regions: Sequence[Sequence[Box]],
    *,
    max_new_tokens: int = 32,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[list[str]]:
    """Say what is in each region of each picture: "a red dog.".

    `regions` has an entry for each picture, with any number of boxes in 0..1 of it; the result has
    the same shape. Boxes are rounded outwards to the 32 by 32 grid of Kosmos-2. `batching` counts
    regions. Raises UserError as `generate.reply` does.
    """
    prompts = [[region_prompt(kosmos, box, max_new_tokens) for box in boxes] for boxes in regions]
    replies = generate(kosmos, pictures, prompts, max_new_tokens=max_new_tokens, batching=batching)
    return [
        [
            parse(read_text(kosmos, prompt, one.ids)).caption.removeprefix(OPENING).strip()
            for prompt, one in zip(asked, each, strict=True)
        ]
        for asked, each in zip(prompts, replies, strict=True)
    ]


def labelled(boxes: Sequence[Box], texts: Sequence[str]) -> GroundedText:
    """Join what regions of a picture hold into one text, each description a phrase with its box."""
    caption = ""
    phrases = []
    for box, text in zip(boxes, texts, strict=True):
        name = text.rstrip(".")
        start = len(caption) + (1 if caption else 0)
        phrases.append(Phrase(name, start, start + len(name), (box,)))
        caption = f"{caption} {text}" if caption else text
    return GroundedText(caption, tuple(phrases))
