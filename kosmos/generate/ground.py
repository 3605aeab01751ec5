"""Ground phrases: find in an image what a phrase names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.images import Images
from ..grounding import Box, GroundedText, Phrase
from ..kosmos_model import Kosmos
from ..prompt import MIN_NEW_TOKENS, tokenize
from .completion import generate_text
from .encoded_images import EncodedImages
from .regions import describe_regions

MAX_NEW_TOKENS = 80
"""Enough for some twenty boxes of three tokens each, delimiter included."""

_PREPOSITION = re.compile(
    r"\s(?:of|in|on|at|by|with|from|to|under|above|behind|near|next|that|which|who|and)\s"
)


def ground(
    kosmos: Kosmos,
    images: Images,
    phrases: Sequence[str],
    *,
    verify: bool = True,
    batching: BatchOptions = DEFAULT_BATCHES,
) -> list[GroundedText]:
    """Find each phrase in each image of a batch.

    The caption of a result is all phrases joined by commas, and its phrases are `phrases` in order,
    with their boxes or none. The prompt is that of the published model, `<phrase> a dog</phrase>`,
    which it completes with the box.

    Kosmos-2 was not trained with phrases that are absent from the image, and returns a box for
    these too. With `verify` it describes each box, and a box whose description does not name the
    phrase's noun is dropped. Each image is encoded once. `batching` counts phrases times images.
    Raises UserError as `tokenize` and `generate` do.
    """
    encoded = EncodedImages(kosmos, images)
    names = [re.sub(r"\s+", " ", re.sub(r"[<>]", "", phrase)).strip() for phrase in phrases]
    prompts = [tokenize(kosmos, f"<phrase> {name}</phrase>", MIN_NEW_TOKENS) for name in names]
    texts = generate_text(
        kosmos,
        encoded,
        [prompts] * len(images),
        max_new_tokens=MAX_NEW_TOKENS,
        stop_token=kosmos.processor.tokenizer.convert_tokens_to_ids("</object>"),
        batching=batching,
    )
    boxes = [[text.phrases[0].boxes if text.phrases else () for text in row] for row in texts]
    if verify:
        boxes = _verify(kosmos, encoded, names, boxes, batching)
    return [_join_phrases(names, row) for row in boxes]


def describe_missing(texts: Sequence[GroundedText]) -> str:
    """Return lines that name the phrases without a box and their images, counted from 1."""
    images: dict[str, list[str]] = {}
    for k, text in enumerate(texts, 1):
        for phrase in text.phrases:
            if not phrase.boxes:
                images.setdefault(phrase.text, []).append(str(k))
    return "\n".join(
        f"not found: {name}" + (f" (in image {', '.join(indices)})" if len(texts) > 1 else "")
        for name, indices in images.items()
    )


def _verify(
    kosmos: Kosmos,
    images: EncodedImages,
    names: Sequence[str],
    boxes: Sequence[Sequence[tuple[Box, ...]]],
    batching: BatchOptions,
) -> list[list[tuple[Box, ...]]]:
    """Return the boxes [image][phrase] whose description names the phrase's noun."""
    regions = [[box for group in row for box in group] for row in boxes]
    options = BatchOptions(batching.batch_size, batching.free_memory, on_token=batching.on_token)
    descriptions = describe_regions(kosmos, images, regions, batching=options)
    verified = []
    for row, texts in zip(boxes, map(iter, descriptions), strict=True):
        verified.append(
            [
                tuple(box for box in group if names_noun(name, next(texts)))
                for name, group in zip(names, row, strict=True)
            ]
        )
    return verified


def names_noun(phrase: str, description: str) -> bool:
    """Return whether a description has the noun of a phrase, in singular or plural.

    The noun is the last word before a preposition: "the red dogs" of "the red dogs in the snow".
    Parts of words count ("a fire" is in "a campfire").
    """
    noun = re.findall(r"\w+", _PREPOSITION.split(f"{phrase} ")[0].lower())[-1:]
    words = re.findall(r"\w+", description.lower())
    return any(_stem(a) in b or _stem(b) == a for a in noun for b in words)


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


def _join_phrases(names: Sequence[str], boxes: Sequence[tuple[Box, ...]]) -> GroundedText:
    phrases = []
    start = 0
    for name, group in zip(names, boxes, strict=True):
        phrases.append(Phrase(name, start, start + len(name), group))
        start += len(name) + 2
    return GroundedText(", ".join(names), tuple(phrases))
