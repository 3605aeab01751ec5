"""Pictures with the captions that are to be learned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...diffusion.fingerprint import file_hash
from ...kosmos.files.caption_files import caption_file_contents, read_grounded, write_files
from ...kosmos.files.coco import CaptionedImage
from ...kosmos.files.folder_captions import list_images
from ...kosmos.generate.language import ENGLISH, is_in
from ...kosmos.grounding import GroundedText
from ...shared.errors import UserError
from ..data.subject import link_or_copy


@dataclass(frozen=True, eq=False)
class Example:
    """A picture, a file or uint8 [H,W,3], and what is to be written under it."""

    picture: Path | np.ndarray
    text: GroundedText


def examples_in(folder: Path) -> list[Example]:
    """Return the pictures of a folder that have a caption beside them, as SaveCaptions writes it.

    Raises UserError when there is no such picture.
    """
    told = [(path, read_grounded(path)) for path in list_images(folder)]
    found = [Example(path, text) for path, text in told if text is not None]
    if not found:
        raise UserError(
            f'No picture in "{folder.name}" has a caption beside it: put a .txt of the same name '
            "there, or connect image and captions."
        )
    return found


def check_captions(examples: Sequence[Example], language: str) -> None:
    """Raise UserError for an empty caption, and when all of them are in English instead."""
    for number, example in enumerate(examples, start=1):
        if not example.text.caption.strip():
            raise UserError(f"The caption of picture {number} is empty: write one.")
    told = [example.text.caption for example in examples]
    strange = not any(is_in(language, text) for text in told)
    if language != ENGLISH and strange and all(is_in(ENGLISH, text) for text in told):
        raise UserError(
            f'The captions are not in {language} but in English ("{told[0][:60]}"): translate '
            "them, or set language to English."
        )


def fingerprint(examples: Sequence[Example]) -> str:
    """Return a hash of all that is learned from."""
    digest = hashlib.sha256()
    for example in examples:
        if isinstance(example.picture, Path):
            digest.update(file_hash(example.picture).encode())
        else:
            digest.update(f"{example.picture.shape}".encode())
            digest.update(np.ascontiguousarray(example.picture).tobytes())
        digest.update(f"{example.text}\n".encode())
    return digest.hexdigest()


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write pictures and captions as `examples_in` reads them; files are linked where that goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(examples):
        if isinstance(example.picture, Path):
            target = folder / f"{number:06}{example.picture.suffix.lower()}"
            link_or_copy(example.picture, target)
            with Image.open(target) as picture:
                width, height = picture.size
        else:
            target = folder / f"{number:06}.png"
            Image.fromarray(example.picture).save(target)
            height, width = example.picture.shape[:2]
        entry = CaptionedImage(target.name, width, height, example.text)
        write_files(caption_file_contents(target, entry, "txt and json"), overwrite=True)
