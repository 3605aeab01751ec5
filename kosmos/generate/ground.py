"""Find in a picture what a phrase names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.images import Images
from ..grounding import Box, GroundedText, Phrase, parse
from ..kosmos_model import Kosmos
from ..prompt import read_text, tokenize
from .completion import generate
from .encoded_images import EncodedImages
from .regions import describe_regions

MAX_NEW_TOKENS = 80
"""Some twenty boxes: each takes three tokens with its delimiter."""

_AFTER_THE_NOUN = re.compile(
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
    """Find each phrase in each picture of a batch.

    Each result's caption is all phrases, parted by commas, and
    its phrases are `phrases` in their order, with the boxes of what they name or with none. The
    prompt is that of the published model: `<phrase> a dog</phrase>`, and its box is the answer.

    Kosmos-2 was never shown a phrase that is not in the picture, and points somewhere all the same.
    With `verify` it is asked what is in each box, and a box that it does not call by the phrase's
    noun is dropped. Each picture is looked at once for all of this. `batching` counts phrases times
    pictures. Raises UserError as `prompt.tokenize` and `generate.reply` do.
    """
    pictures = EncodedImages(kosmos, images)
    names = [re.sub(r"\s+", " ", re.sub(r"[<>]", "", phrase)).strip() for phrase in phrases]
    prompts = [tokenize(kosmos, f"<phrase> {name}</phrase>", MAX_NEW_TOKENS) for name in names]
    replies = generate(
        kosmos,
        pictures,
        [prompts] * len(images),
        max_new_tokens=MAX_NEW_TOKENS,
        stop_at=kosmos.processor.tokenizer.convert_tokens_to_ids("</object>"),
        batching=batching,
    )
    found = [
        [
            _boxes_of_first(parse(read_text(kosmos, prompt, one.ids)))
            for prompt, one in zip(prompts, each, strict=True)
        ]
        for each in replies
    ]
    if verify:
        found = _verified(kosmos, pictures, names, found, batching)
    return [_listed(names, boxes) for boxes in found]


def missing(found: Sequence[GroundedText]) -> str:
    """Say which phrases have no box in which pictures (counted from 1); empty when all have one."""
    absent: dict[str, list[str]] = {}
    for k, seen in enumerate(found, 1):
        for phrase in seen.phrases:
            if not phrase.boxes:
                absent.setdefault(phrase.text, []).append(str(k))
    return "\n".join(
        f"not found: {text}" + (f" (in picture {', '.join(where)})" if len(found) > 1 else "")
        for text, where in absent.items()
    )


def _boxes_of_first(seen: GroundedText) -> tuple[Box, ...]:
    return seen.phrases[0].boxes if seen.phrases else ()


def _verified(
    kosmos: Kosmos,
    pictures: EncodedImages,
    names: Sequence[str],
    found: Sequence[Sequence[tuple[Box, ...]]],
    batching: BatchOptions,
) -> list[list[tuple[Box, ...]]]:
    flat = [[box for boxes in each for box in boxes] for each in found]
    quiet = BatchOptions(batching.batch_size, batching.free_memory, on_token=batching.on_token)
    told = describe_regions(kosmos, pictures, flat, batching=quiet)
    kept = []
    for each, texts in zip(found, told, strict=True):
        said = iter(texts)
        kept.append(
            [
                tuple(box for box in boxes if is_named(name, next(said)))
                for name, boxes in zip(names, each, strict=True)
            ]
        )
    return kept


def is_named(phrase: str, description: str) -> bool:
    """Tell whether a description names the thing that a phrase is about, in singular or plural.

    The thing is the last word before a preposition: "the red dogs" of "the red dogs in the snow".
    Parts of words count ("a fire" is named by "a campfire").
    """
    noun = re.findall(r"\w+", _AFTER_THE_NOUN.split(f"{phrase} ")[0].lower())[-1:]
    said = re.findall(r"\w+", description.lower())
    return any(_stem(a) in b or _stem(b) == a for a in noun for b in said)


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


def _listed(names: Sequence[str], boxes: Sequence[tuple[Box, ...]]) -> GroundedText:
    phrases = []
    start = 0
    for name, found in zip(names, boxes, strict=True):
        phrases.append(Phrase(name, start, start + len(name), found))
        start += len(name) + 2
    return GroundedText(", ".join(names), tuple(phrases))
