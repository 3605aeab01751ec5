"""Caption files next to images: plain text for trainers, JSON with boxes, COCO for a set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ...shared.atomic_files import atomic_write, write_text
from ...shared.errors import UserError
from ...shared.images import to_uint8
from ..grounding import GroundedText
from .coco import CaptionedImage, coco_captions, coco_instances
from .grounding_json import grounded_text_from_json, grounded_text_to_json

CAPTION_FORMATS = {"txt": (".txt",), "json": (".json",), "txt and json": (".txt", ".json")}


def caption_file_paths(image_file: Path, format_: str) -> list[Path]:
    """Return the caption files of an image: its name with the suffixes of the format."""
    return [image_file.with_suffix(suffix) for suffix in CAPTION_FORMATS[format_]]


def caption_file_contents(image_file: Path, image: CaptionedImage, format_: str) -> dict[Path, str]:
    """Return the texts of the caption files of an image, by path."""
    texts = {
        ".txt": image.text.caption + "\n",
        ".json": grounded_text_to_json(image.text, image.width, image.height) + "\n",
    }
    return {path: texts[path.suffix] for path in caption_file_paths(image_file, format_)}


def coco_file_contents(folder: Path, images: Sequence[CaptionedImage]) -> dict[Path, str]:
    """Return the texts of the two COCO files of a set, by path."""
    return {
        folder / "coco_instances.json": json.dumps(coco_instances(images), ensure_ascii=False),
        folder / "coco_captions.json": json.dumps(coco_captions(images), ensure_ascii=False),
    }


def write_files(files: Mapping[Path, str], *, overwrite: bool) -> None:
    """Write text files, each atomically.

    Raises UserError when one exists and `overwrite` is off, before any is written, and when a file
    cannot be written.
    """
    if not overwrite:
        require_absent(files)
    for path, text in files.items():
        try:
            write_text(path, text)
        except OSError as error:
            raise _write_error(path, error) from error


def require_absent(files: Iterable[Path]) -> None:
    """Raise UserError when one of these files exists."""
    existing = [path for path in files if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UserError(
            f"{existing[0].name}{more} would be overwritten in {existing[0].parent.name}: turn "
            "overwrite on, or give another folder or names."
        )


def write_image(path: Path, image: Tensor) -> None:
    """Write an image [H,W,C], float 0..1 with 1, 3 or 4 channels, atomically as a PNG.

    Raises UserError when the file cannot be written.
    """
    pixels = to_uint8(image).cpu().numpy()
    try:
        with atomic_write(path) as draft:
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
                draft, format="png"
            )
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} could not be written ({error.strerror}): free disk space, or check the "
        "permissions of the folder."
    )


def read_caption(image_file: Path) -> str | None:
    """Return the caption of an image from the file next to it, or None.

    If there is a text file, the JSON file is not read: another program may have written it.
    """
    text_file, _ = caption_file_paths(image_file, "txt and json")
    if text_file.exists():
        return _read(text_file).strip()
    grounded = read_grounded(image_file)
    return None if grounded is None else grounded.caption


def read_grounded(image_file: Path) -> GroundedText | None:
    """Return the caption of an image with its boxes from the files next to it, or None.

    The text file takes precedence: boxes of a JSON file with another caption are ignored. Raises
    UserError for a file with other content.
    """
    text_file, json_file = caption_file_paths(image_file, "txt and json")
    grounded = (
        grounded_text_from_json(_read(json_file), json_file.name) if json_file.exists() else None
    )
    if not text_file.exists():
        return grounded
    caption = _read(text_file).strip()
    if grounded is not None and grounded.caption == caption:
        return grounded
    return GroundedText(caption)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not a text in UTF-8: save it in UTF-8.") from error
