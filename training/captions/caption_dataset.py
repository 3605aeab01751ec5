"""Images with the captions to train."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...kosmos.files.caption_files import caption_file_contents, read_grounded, write_files
from ...kosmos.files.coco import CaptionedImage
from ...kosmos.generate.language import ENGLISH, is_in
from ...kosmos.grounding import GroundedText
from ...shared.atomic_files import link_or_copy
from ...shared.errors import UserError
from ...shared.image_files import list_images
from ...shared.model_folders import file_hash

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Example:
    """An image, a file or uint8 [H,W,3], and its target caption."""

    image: Path | np.ndarray
    text: GroundedText


def examples_in(
    folder: Path, on_problem: Callable[[str], object] = logger.warning
) -> list[Example]:
    """Return the images of a folder that have caption files, as SaveCaptions writes them.

    `on_problem` receives a sentence for a caption file that is read as `read_grounded` says. Raises
    UserError when there is no such image.
    """
    captioned = [(path, read_grounded(path, on_problem)) for path in list_images(folder)]
    examples = [Example(path, text) for path, text in captioned if text is not None]
    if not examples:
        raise UserError(
            f'No image in "{folder.name}" has a caption file next to it: add a .txt of the same '
            "name, or connect image and captions."
        )
    return examples


def check_captions(examples: Sequence[Example], language: str) -> None:
    """Raise UserError when all captions are in English but `language` is not."""
    captions = [example.text.caption for example in examples]
    if language == ENGLISH or any(is_in(language, caption) for caption in captions):
        return
    if all(is_in(ENGLISH, caption) for caption in captions):
        raise UserError(
            f'The captions are not in {language} but in English ("{captions[0][:60]}"): translate '
            "them, or set language to English."
        )


def examples_fingerprint(examples: Sequence[Example]) -> str:
    """Return SHA-256, in hex, of all images and captions."""
    digest = hashlib.sha256()
    for example in examples:
        if isinstance(example.image, Path):
            digest.update(file_hash(example.image).encode())
        else:
            digest.update(f"{example.image.shape}".encode())
            digest.update(np.ascontiguousarray(example.image).tobytes())
        digest.update(f"{example.text}\n".encode())
    return digest.hexdigest()


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write images and captions as `examples_in` reads them; image files become hard links."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(examples):
        if isinstance(example.image, Path):
            target = folder / f"{number:06}{example.image.suffix.lower()}"
            link_or_copy(example.image, target)
            with Image.open(target) as image:
                width, height = image.size
        else:
            target = folder / f"{number:06}.png"
            Image.fromarray(example.image).save(target)
            height, width = example.image.shape[:2]
        entry = CaptionedImage(target.name, width, height, example.text)
        write_files(caption_file_contents(target, entry, "txt and json"), overwrite=True)
