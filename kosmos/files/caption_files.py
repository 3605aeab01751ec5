"""Caption files next to images: plain text for trainers, JSON with boxes, COCO for a set."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ...shared.atomic_files import atomic_write, write_text
from ...shared.errors import UserError
from ...shared.image_files import image_suffixes
from ...shared.images import to_uint8
from ...shared.text_files import read_text
from ..grounding import GroundedText
from .coco import CaptionedImage, coco_captions, coco_instances
from .grounding_json import grounded_text_from_json, grounded_text_to_json

logger = logging.getLogger(__name__)

OnProblem = Callable[[str], object]

CAPTION_FORMATS = {"txt": (".txt",), "json": (".json",), "txt and json": (".txt", ".json")}


def _ignore(_: str) -> None:
    """Receive the problems of a file that is read again when its caption is needed."""


def caption_file_paths(
    image_file: Path,
    format_: str,
    taken: Collection[Path] = (),
    on_problem: OnProblem = _ignore,
) -> list[Path]:
    """Return the paths to write an image's caption files to: `a.txt` and `a.json` for `a.png`.

    It is `a.png.txt` where that file exists already, where `a.txt` is in `taken`, the files of
    other images, and for a JSON file also where another program wrote `a.json`, which is
    reported to `on_problem`.
    """
    paths = []
    for suffix in CAPTION_FORMATS[format_]:
        full_name, path = _candidates(image_file, suffix)
        foreign = (
            suffix == ".json"
            and not lacks_caption(path)
            and _read_grounded(path, on_problem) is None
        )
        paths.append(full_name if path in taken or _exists(full_name) or foreign else path)
    return paths


def _candidates(image_file: Path, suffix: str) -> tuple[Path, Path]:
    """Return the two names of an image's caption file, `a.png.txt` and `a.txt`."""
    is_image = image_file.suffix.lower() in image_suffixes()
    stem = image_file.stem if is_image else image_file.name
    full_name = image_file.with_name(image_file.name + suffix)
    return full_name, image_file.with_name(stem + suffix)


def caption_file_contents(
    image_file: Path, image: CaptionedImage, format_: str, taken: Collection[Path] = ()
) -> dict[Path, str]:
    """Return the texts of the caption files of an image, by their `caption_file_paths`."""
    texts = {
        ".txt": image.text.caption + "\n",
        ".json": grounded_text_to_json(image.text, image.width, image.height) + "\n",
    }
    return {path: texts[path.suffix] for path in caption_file_paths(image_file, format_, taken)}


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
        write_text(path, text)


def require_absent(files: Iterable[Path]) -> None:
    """Raise UserError when one of these files exists."""
    existing = [path for path in files if _exists(path)]
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
    with atomic_write(path) as draft:
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
            draft, format="png"
        )


def lacks_caption(path: Path) -> bool:
    """Tell whether a caption file is missing or empty; one with other contents is not."""
    if not _exists(path) or path.stat().st_size == 0:
        return True
    if path.suffix == ".json":
        grounded = _read_grounded(path, _ignore)
        return grounded is not None and not grounded.caption.strip()
    return _read_text(path, _ignore) == ""


def _exists(path: Path) -> bool:
    """Whether there is a file; there is none of a name that is too long for the file system."""
    return os.path.exists(path)  # noqa: PTH110 -- Path.exists raises OSError for such a name


def read_caption(image_file: Path, on_problem: OnProblem = logger.warning) -> str | None:
    """Return the caption of an image from the files next to it; see `read_grounded`."""
    grounded = read_grounded(image_file, on_problem)
    return None if grounded is None else grounded.caption


def read_grounded(image_file: Path, on_problem: OnProblem = logger.warning) -> GroundedText | None:
    """Return the caption of an image with its boxes from the files next to it.

    It is None without a caption, also when the files are empty. The text file takes precedence:
    boxes of a JSON file with another caption are ignored. `on_problem` receives a sentence for a
    file in another encoding, and for one that is no caption, such as the JSON of another program.
    """
    text_file, json_file = (
        next((path for path in _candidates(image_file, suffix) if _exists(path)), None)
        for suffix in CAPTION_FORMATS["txt and json"]
    )
    grounded = _read_grounded(json_file, on_problem) if json_file else None
    caption = _read_text(text_file, on_problem) if text_file else None
    if caption and (grounded is None or grounded.caption.strip() != caption):
        return GroundedText(caption)
    return grounded if grounded is not None and grounded.caption.strip() else None


def _read_text(path: Path, on_problem: OnProblem) -> str | None:
    """Return the caption in a text file, stripped, or None for a file that is no text."""
    try:
        return read_text(path, on_problem).strip()
    except UserError as error:
        on_problem(str(error))
        return None


def _read_grounded(path: Path, on_problem: OnProblem) -> GroundedText | None:
    """Return the caption in a JSON file, or None for one with other contents."""
    try:
        return grounded_text_from_json(read_text(path, on_problem), str(path))
    except UserError as error:
        on_problem(str(error))
        return None
