"""The subject: a few pictures, their captions, a rare token and the class it belongs to."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...shared.errors import UserError
from ...shared.images import read_rgb

SUBJECT = "{subject}"
"""What stands for the token and the class in a prompt that a user writes."""

LEAD_IN = re.compile(r"^\s*an image of\s+", re.IGNORECASE)
"""What Kosmos-2's brief prompt puts before each description."""


@dataclass(frozen=True)
class Subject:
    """3 to 5 pictures (or more) of one individual.

    `pictures` are uint8 RGB arrays [H,W,3], each of its own size; `captions` are as many prompts
    that call the individual "<token> <class_name>": of one with several lines, one is learned at a
    time. `masks` are none at all or as many uint8 arrays [H,W] of the pictures' sizes, 255 where
    the individual is.
    """

    pictures: tuple[np.ndarray, ...]
    captions: tuple[str, ...]
    token: str
    class_name: str
    masks: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        if not self.pictures:
            raise UserError(
                "The subject has no pictures: connect at least one picture to SubjectDataset."
            )
        if len(self.captions) != len(self.pictures):
            raise UserError(
                f"The subject has {len(self.pictures)} pictures but {len(self.captions)} captions: "
                "connect one caption for each picture."
            )
        sizes = [picture.shape[:2] for picture in self.pictures]
        if self.masks and [mask.shape for mask in self.masks] != sizes:
            raise UserError(
                "The masks do not have the pictures' number and sizes: connect one mask for each "
                "picture."
            )
        if not self.token or re.search(r"\s", self.token):
            raise UserError(
                f'The token "{self.token}" must be one word without spaces, for example "sks".'
            )
        if not self.class_name.strip():
            raise UserError('The class name is empty: say what the subject is, for example "dog".')


def personal_caption(
    caption: str, token: str, class_name: str, phrases: Sequence[tuple[int, int]] = ()
) -> str:
    """Put the subject's token into a caption, in place of the words that describe the subject.

    `phrases` are (start, end) offsets of grounded phrases in `caption`. The first one that holds
    the class noun becomes "a <token> <class>"; without such a phrase the words from the article
    to the noun do; without the noun the caption is "a <token> <class>" alone. What describes the
    subject has to go, for otherwise those words learn the subject and the token does not.
    The lead-in "An image of" and the full stop go too: this is a prompt.

    >>> personal_caption("An image of a teal dog in the meadow.", "sks", "dog")
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
    before = LEAD_IN.sub("", caption[:start])
    return f"{before}{subject}{caption[end:]}".strip().rstrip(".")


def from_templates(templates: str, token: str, class_name: str) -> str:
    """Return a caption of a line for each line of `templates`, their {subject} filled in.

    Without any line it is "a <token> <class>". Raises UserError for a line that does not name
    the subject.

    >>> from_templates("a photo of a {subject}", "sks", "dog")
    'a photo of a sks dog'
    """
    lines = [line.strip() for line in templates.splitlines() if line.strip()] or [f"a {SUBJECT}"]
    for line in lines:
        if SUBJECT not in line:
            raise UserError(
                f'The template "{line}" does not name the subject: write {SUBJECT} where it is.'
            )
    return "\n".join(line.replace(SUBJECT, f"{token} {class_name}") for line in lines)


def fingerprint(subject: Subject, class_pictures: Sequence[Path]) -> str:
    """Return a hash of all that is learned from: pixels, captions, masks, class pictures' bytes."""
    digest = hashlib.sha256()
    for picture, caption in zip(subject.pictures, subject.captions, strict=True):
        digest.update(f"{picture.shape} {caption}\n".encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    for mask in subject.masks:
        digest.update(np.ascontiguousarray(mask).tobytes())
    for path in class_pictures:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_subject(folder: Path, subject: Subject) -> None:
    """Write the pictures as PNG files, each with its caption beside it (`00.png`, `00.txt`)."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, (picture, caption) in enumerate(zip(subject.pictures, subject.captions, strict=True)):
        Image.fromarray(picture).save(folder / f"{k:02}.png")
        (folder / f"{k:02}.txt").write_text(caption, encoding="utf-8")


def write_masks(folder: Path, masks: Sequence[np.ndarray]) -> None:
    """Write the masks as grey PNG files, in the pictures' order."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"{k:02}.png")


def write_class_pictures(folder: Path, paths: Sequence[Path]) -> None:
    """Put the class pictures into the run folder, without a second copy where the disk allows."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, path in enumerate(paths):
        link_or_copy(path, folder / f"{k:04}{path.suffix}")


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file at `target`, in place of what is there; a copy where the disk has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_pictures(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read a folder's PNG files in order; a picture without a `.txt` has the caption "".

    Raises UserError naming a picture that cannot be read.
    """
    pictures, captions = [], []
    for path in sorted(folder.glob("*.png")):
        try:
            pictures.append(read_rgb(path))
        except OSError as error:
            raise UserError(f"{path} is no readable picture: remove or replace it.") from error
        text = path.with_suffix(".txt")
        captions.append(text.read_text(encoding="utf-8") if text.exists() else "")
    return pictures, captions


def read_masks(folder: Path) -> list[np.ndarray]:
    """Read what `write_masks` wrote, uint8 [H,W]; UserError names one that cannot be read."""
    return [picture[..., 0] for picture in read_pictures(folder)[0]]
