"""The subject: a few images, their captions, a rare token and the class it belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...shared.atomic_files import link_or_copy
from ...shared.errors import UserError
from ...shared.images import READ_ERRORS, read_rgb
from ...shared.json_files import read_small_text

SUBJECT = "{subject}"
"""Placeholder for the token and the class name in a prompt that a user writes."""

CAPTION_PREFIX = re.compile(r"^\s*an image of\s+", re.IGNORECASE)
"""The start of every caption for Kosmos-2's brief prompt."""


@dataclass(frozen=True)
class Subject:
    """Images of one individual, best 3 to 5, with captions.

    `images` are uint8 RGB arrays [H,W,3], each of its own size. `captions` has one prompt per
    image, which calls the individual "<token> <class_name>"; of a caption with several lines, each
    step samples one. `masks` is empty or has one uint8 array [H,W] per image, of the image's size,
    255 where the individual is. Raises UserError for a subject that breaks these rules.
    """

    images: tuple[np.ndarray, ...]
    captions: tuple[str, ...]
    token: str
    class_name: str
    masks: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            raise UserError(
                "The subject has no images: connect at least one image to SubjectDataset."
            )
        if len(self.captions) != len(self.images):
            raise UserError(
                f"The subject has {len(self.images)} images but {len(self.captions)} captions: "
                "connect one caption for each image."
            )
        sizes = [image.shape[:2] for image in self.images]
        if self.masks and [mask.shape for mask in self.masks] != sizes:
            raise UserError(
                "The number or sizes of the masks differ from those of the images: connect one "
                "mask for each image."
            )
        if not self.token or re.search(r"\s", self.token):
            raise UserError(
                f'The token "{self.token}" must be one word without spaces, for example "sks".'
            )
        if not self.class_name.strip():
            raise UserError('class_name is empty: enter what the subject is, for example "dog".')


def caption_with_token(
    caption: str, token: str, class_name: str, phrases: Sequence[tuple[int, int]] = ()
) -> str:
    """Replace the description of the subject in a caption by "a <token> <class_name>".

    `phrases` are (start, end) offsets of grounded phrases in `caption`. Replaced is the first of
    them with the class name; without one, the words from the article to the class name; without
    the class name, the whole caption. The description must go, or its words would be bound to the
    subject instead of the token. The prefix "An image of" and the final full stop are removed.

    >>> caption_with_token("An image of a teal dog in the meadow.", "sks", "dog")
    'a sks dog in the meadow'
    """
    subject = f"a {token} {class_name}"
    if re.search(rf"(?<!\w){re.escape(token)}(?!\w)", caption):
        return caption
    noun = rf"(?<!\w){re.escape(class_name)}(?!\w)"
    spans = [span for span in phrases if re.search(noun, caption[slice(*span)], re.IGNORECASE)]
    if not spans:
        article = r"(?<!\w)(?:an?|the|this|one)\s+(?:[\w-]+\s+){0,4}?"
        match = re.search(article + noun, caption, re.IGNORECASE)
        match = match or re.search(noun, caption, re.IGNORECASE)
        spans = [match.span()] if match else []
    if not spans:
        return subject
    start, end = spans[0]
    before = CAPTION_PREFIX.sub("", caption[:start])
    return f"{before}{subject}{caption[end:]}".strip().rstrip(".")


def caption_from_templates(templates: str, token: str, class_name: str) -> str:
    """Return a caption with one line per line of `templates`, {subject} filled in.

    Without any line it is "a <token> <class_name>". Raises UserError for a line without {subject}.

    >>> caption_from_templates("a photo of a {subject}", "sks", "dog")
    'a photo of a sks dog'
    """
    lines = [line.strip() for line in templates.splitlines() if line.strip()] or [f"a {SUBJECT}"]
    for line in lines:
        if SUBJECT not in line:
            raise UserError(
                f'The template "{line}" does not name the subject: write {SUBJECT} where it is.'
            )
    return "\n".join(line.replace(SUBJECT, f"{token} {class_name}") for line in lines)


def subject_fingerprint(subject: Subject, class_images: Sequence[Path]) -> str:
    """Return SHA-256, in hex, of all training data: pixels, captions, masks, class image files."""
    digest = hashlib.sha256()
    for image, caption in zip(subject.images, subject.captions, strict=True):
        digest.update(f"{image.shape} {caption}\n".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    for mask in subject.masks:
        digest.update(np.ascontiguousarray(mask).tobytes())
    for path in class_images:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_subject(folder: Path, subject: Subject) -> None:
    """Write the images as PNG files, each with a caption file of the same name (`00.txt`)."""
    write_images(folder, subject.images)
    for number, caption in enumerate(subject.captions):
        (folder / f"{number:02}.txt").write_text(caption, encoding="utf-8")


def write_images(folder: Path, images: Sequence[np.ndarray]) -> None:
    """Write uint8 images [H,W,3] or masks [H,W] as PNG files `00.png`, `01.png`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")


def write_class_images(folder: Path, paths: Sequence[Path]) -> None:
    """Put class images into the run folder as hard links, or copies where there are no links."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        link_or_copy(path, folder / f"{number:04}{path.suffix}")


def read_images(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read a folder's PNG files by name, uint8 [H,W,3], and captions; "" without a `.txt` file.

    Raises UserError that names an unreadable image or caption file.
    """
    images, captions = [], []
    for path in sorted(folder.glob("*.png")):
        try:
            images.append(read_rgb(path))
        except READ_ERRORS as error:
            raise UserError(f"{path} is not a readable image: remove or replace it.") from error
        text = path.with_suffix(".txt")
        try:
            captions.append(read_small_text(text) if text.exists() else "")
        except (OSError, ValueError) as error:
            raise UserError(f"{text} is not a text in UTF-8: correct or remove it.") from error
    return images, captions
