"""Save captions beside pictures: plain text for trainers, JSON with the boxes, COCO for a set."""

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


def caption_file_paths(picture: Path, format_: str) -> list[Path]:
    """Return the files that one of FORMATS puts beside a picture: its name, another ending."""
    return [picture.with_suffix(suffix) for suffix in CAPTION_FORMATS[format_]]


def caption_file_contents(picture: Path, entry: CaptionedImage, format_: str) -> dict[Path, str]:
    """Return what these files hold."""
    texts = {
        ".txt": entry.seen.caption + "\n",
        ".json": grounded_text_to_json(entry.seen, entry.width, entry.height) + "\n",
    }
    return {path: texts[path.suffix] for path in caption_file_paths(picture, format_)}


def coco_file_contents(folder: Path, entries: Sequence[CaptionedImage]) -> dict[Path, str]:
    """Return what COCO's two files about a set hold, by their paths in its folder."""
    return {
        folder / "coco_instances.json": json.dumps(coco_instances(entries), ensure_ascii=False),
        folder / "coco_captions.json": json.dumps(coco_captions(entries), ensure_ascii=False),
    }


def write_files(files: Mapping[Path, str], *, overwrite: bool) -> None:
    """Write files, each whole or not at all.

    Raises UserError when one is there already and `overwrite` is off, before anything is
    written, and when the disk does not take them.
    """
    if not overwrite:
        require_absent(files)
    for path, text in files.items():
        try:
            write_text(path, text)
        except OSError as error:
            raise _refused(path, error) from error


def require_absent(files: Iterable[Path]) -> None:
    """Raise UserError when one of these files is there already."""
    there = [path for path in files if path.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(
            f"{there[0].name}{more} would be overwritten in {there[0].parent.name}: turn overwrite "
            "on, or give another folder or names."
        )


def write_image(path: Path, picture: Tensor) -> None:
    """Write a picture [H,W,C], float 0..1 with 1, 3 or 4 channels, as a PNG; whole or not at all.

    Raises UserError when the disk does not take it.
    """
    pixels = to_uint8(picture).cpu().numpy()
    try:
        with atomic_write(path) as draft:
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
                draft, format="png"
            )
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} could not be written ({error.strerror}): free disk space, or see that the folder "
        "may be written to."
    )


def read_caption(picture: Path) -> str | None:
    """Return the caption that was saved beside a picture, if there is one.

    Where there is a text, a JSON file is not opened: it may be another program's.
    """
    text, _ = caption_file_paths(picture, "txt and json")
    if text.exists():
        return _read(text).strip()
    seen = read_grounded(picture)
    return None if seen is None else seen.caption


def read_grounded(picture: Path) -> GroundedText | None:
    """Return the caption that was saved beside a picture, if there is one, with its boxes.

    A plain text that was changed by hand counts, and boxes that were saved with another one do
    not. Raises UserError for a file that holds something else.
    """
    text, record = caption_file_paths(picture, "txt and json")
    seen = grounded_text_from_json(_read(record), record.name) if record.exists() else None
    if not text.exists():
        return seen
    caption = _read(text).strip()
    return seen if seen is not None and seen.caption == caption else GroundedText(caption)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is no text in UTF-8: save it as such.") from error
