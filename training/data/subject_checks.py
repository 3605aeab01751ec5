"""What is worth knowing about a subject before an evening is spent on it."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import TYPE_CHECKING

from .masks import in_the_middle
from .subject import Subject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEW, SMALL = 3, 0.5
ORDINARY = 0.6
"""Byte-pair vocabularies list pieces from the most to the least frequent; the rarest are last."""


def advice(
    subject: Subject, tokenizer: PreTrainedTokenizerBase | None, resolution: int
) -> list[str]:
    """Return sentences about what may spoil the training; none when all looks well.

    `tokenizer` is that of the model to train, if it is known; `resolution` its side in pixels, 0
    when it is not.
    """
    found = _about_pictures(subject, resolution)
    return found if tokenizer is None else [*_about_words(subject, tokenizer), *found]


def _about_words(subject: Subject, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    found = []
    token, noun = subject.token, subject.class_name
    ids = tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) > 1:
        found.append(
            f'The token "{token}" is {len(ids)} tokens to this model, which are parts of other '
            "words: take a shorter rare word, such as sks."
        )
    elif ids[0] < ORDINARY * len(tokenizer) and len(tokenizer) > 10_000:
        found.append(
            f'The token "{token}" is an ordinary word to this model and brings its meaning along: '
            "take a rare one, such as sks."
        )
    pieces = tokenizer(noun, add_special_tokens=False).input_ids
    if len(pieces) > len(noun.split()):
        found.append(
            f'The class "{noun}" is {len(pieces)} tokens to this model, which may not know it: a '
            "plainer word keeps more of the class."
        )
    return found


def _about_pictures(subject: Subject, resolution: int) -> list[str]:
    found = []
    pictures = subject.pictures
    if len(pictures) < FEW:
        found.append(
            f"There {'is 1 picture' if len(pictures) == 1 else f'are {len(pictures)} pictures'} "
            "only: the background will be learned along; 3 to 5 with different ones are better."
        )
    digests = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
    for first, second in combinations(range(len(pictures)), 2):
        if digests[first] == digests[second]:
            found.append(f"Pictures {first + 1} and {second + 1} are the same: remove one.")
    for k, picture in enumerate(pictures, start=1):
        side = min(picture.shape[:2])
        if side < SMALL * resolution:
            found.append(
                f"Picture {k} has {side} pixels on its shorter side and the model paints "
                f"{resolution}: it is blown up, so take a larger one."
            )
    for k, mask in enumerate(subject.masks, start=1):
        if not in_the_middle(mask):
            found.append(
                f"Picture {k} has the subject outside of its middle square, which is all that is "
                "learned from: switch crop on, or set TrainingOptions' bucket_step."
            )
    return found
