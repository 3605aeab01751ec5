"""Warnings about a subject that would train badly."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import TYPE_CHECKING

from ...diffusion.sample.prompt_chunks import count_tokens, truncate_at_word
from .masks import marks_center_square
from .subject import Subject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_IMAGES = 3
MIN_SIDE_SHARE = 0.5
"""An image whose shorter side is below this share of the resolution is scaled up too much."""
CLIP_TOKENS = 75
"""The tokens that the text encoders of Stable Diffusion read, without start and end token."""
MIN_SIDE = 64
"""The same in pixels, when the model is not known; none is trained on smaller images."""
COMMON_SHARE = 0.6
"""Byte-pair vocabularies are sorted from frequent to rare; ids below this share are too common."""


def subject_warnings(
    subject: Subject, tokenizer: PreTrainedTokenizerBase | None, resolution: int
) -> list[str]:
    """Return warnings, a sentence each; [] when nothing was found.

    `tokenizer` and `resolution`, the side of an image in pixels, are those of the model to train;
    None and 0 leave out the checks that need them.
    """
    warnings = []
    token, words = subject.token, subject.class_name.split()
    if token.lower() in (word.lower() for word in words):
        warnings.append(
            f'The token "{token}" is a word of the class "{subject.class_name}", so the subject '
            "cannot be told from its class: use a rare word, such as sks."
        )
    if tokenizer is not None:
        warnings += _token_warnings(subject, tokenizer)
    warnings += _length_warnings(subject, tokenizer)
    return [*warnings, *_image_warnings(subject, resolution)]


def _token_warnings(subject: Subject, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    warnings = []
    token, class_name = subject.token, subject.class_name
    ids = tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) > 1:
        warnings.append(
            f'The token "{token}" is split into {len(ids)} tokens by this model, which are parts '
            "of other words: use a shorter rare word, such as sks."
        )
    elif ids[0] < COMMON_SHARE * len(tokenizer) and len(tokenizer) > 10_000:
        warnings.append(
            f'The token "{token}" is a common word that already has a meaning for this model: use '
            "a rare one, such as sks."
        )
    class_ids = tokenizer(class_name, add_special_tokens=False).input_ids
    if len(class_ids) > len(class_name.split()):
        warnings.append(
            f'The class "{class_name}" is split into {len(class_ids)} tokens by this model, which '
            "may not know it: a more common word preserves the class better."
        )
    return warnings


def _length_warnings(subject: Subject, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    warnings = []
    limit = CLIP_TOKENS if tokenizer is None else tokenizer.model_max_length - 2
    for number, caption in enumerate(subject.captions, start=1):
        # Without a tokenizer words are counted, each of which has a token or more.
        counts = {
            line: len(line.split()) if tokenizer is None else count_tokens(tokenizer, line)
            for line in caption.splitlines()
        }
        longest = max(counts, key=counts.__getitem__, default="")
        if counts.get(longest, 0) <= limit:
            continue
        cut = ""
        if tokenizer is not None:
            cut = f' after "{" ".join(truncate_at_word(tokenizer, longest).split()[-3:])}"'
        least = "" if tokenizer else "at least "
        warnings.append(
            f"The caption of image {number} has {least}{counts[longest]} tokens and a text encoder "
            f"reads {limit} at a time: it is trained in chunks, or cut{cut} when TrainingOptions' "
            "long_captions is truncate."
        )
    return warnings


def _image_warnings(subject: Subject, resolution: int) -> list[str]:
    warnings = []
    images = subject.images
    if len(images) < MIN_IMAGES:
        warnings.append(
            f"There {'is 1 image' if len(images) == 1 else f'are {len(images)} images'} only: the "
            "background will be learned with the subject; use 3 to 5 with different backgrounds."
        )
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    for first, second in combinations(range(len(images)), 2):
        if digests[first] == digests[second]:
            warnings.append(f"Images {first + 1} and {second + 1} are the same: remove one.")
    for number, image in enumerate(images, start=1):
        side = min(image.shape[:2])
        if not resolution and side < MIN_SIDE:
            warnings.append(
                f"Image {number} has {side} pixels on its shorter side, too few for the subject's "
                "details: use a larger one."
            )
        if side < MIN_SIDE_SHARE * resolution:
            warnings.append(
                f"Image {number} has {side} pixels on its shorter side and is scaled up to the "
                f"model's {resolution}: use a larger one."
            )
    for number, mask in enumerate(subject.masks, start=1):
        if not mask.any():
            warnings.append(
                f"The mask of image {number} is empty, so the subject is trained there as "
                "background: paint the mask, or remove the image."
            )
        elif not marks_center_square(mask):
            warnings.append(
                f"Image {number} has the subject outside of its center square, and only that is "
                "trained on: enable crop, or set TrainingOptions' bucket_step."
            )
    return warnings
