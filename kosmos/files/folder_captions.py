"""Caption all pictures of a folder, however many: stop at any time, go on at any time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.errors import UserError
from ...shared.images import to_tensor
from ..generate.caption import BRIEF, caption
from ..generate.language import ENGLISH, check_language
from ..kosmos_model import Kosmos
from .caption_files import caption_file_contents, caption_file_paths, write_files
from .coco import CaptionedImage

IMAGE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"]
)
MAX_SIDE = 1024
"""Larger pictures are reduced to so many pixels when they are read; Kosmos-2 sees 224."""

CHUNK_SIZE = 32
"""Pictures in memory at a time."""


@dataclass(frozen=True)
class CaptionFolderOptions:
    """How to caption a folder: see `caption` and `CAPTION_FORMATS`.

    With `overwrite` captions that are there are written anew. Of `processes` that share the folder
    this is number `process`, from 0: each picture belongs to one of them by its name alone.
    """

    prompt: str = BRIEF
    language: str = ENGLISH
    format: str = "txt"
    max_new_tokens: int = 128
    overwrite: bool = False
    process: int = 0
    processes: int = 1


@dataclass
class CaptionFolderReport:
    """What became of a folder: numbers of pictures, and each that failed with the reason why."""

    captioned: int = 0
    skipped: int = 0
    failed: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.captioned} captioned, {self.skipped} were done, {len(self.failed)} failed"]
        return "\n".join(lines + [f"  {path}: {why}" for path, why in self.failed.items()])


def list_images(folder: Path) -> list[Path]:
    """Return the pictures in a folder and its subfolders, by name; hidden ones are left out.

    Raises UserError when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give one that holds pictures.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def caption_folder(
    kosmos: Kosmos,
    folder: Path,
    job: CaptionFolderOptions,
    *,
    batching: BatchOptions = DEFAULT_BATCHES,
    on_picture: Callable[[int, int], None] | None = None,
) -> CaptionFolderReport:
    """Write a caption beside each picture of a folder that has none.

    Captions are written as soon as a chunk of pictures is done, each file whole or not at all, so
    a run that was stopped goes on where it was, and new pictures are seen by the next run. What
    cannot be read is reported and not an end. `on_picture` hears how many pictures of how many are
    behind it.

    Raises UserError when the folder is missing or cannot be written to, and when the model does
    not write the language that was asked for.
    """
    report = CaptionFolderReport()
    todo = _todo(folder, job, report)
    behind, total = report.skipped + len(report.failed), report.skipped + len(report.failed)
    total += len(todo)
    for start in range(0, len(todo), CHUNK_SIZE):
        chunk = todo[start : start + CHUNK_SIZE]
        read = list(_read_all(chunk, report))
        if read:
            seen = caption(
                kosmos,
                [picture for _, picture, _ in read],
                job.prompt,
                max_new_tokens=job.max_new_tokens,
                batching=BatchOptions(
                    batching.batch_size, batching.free_memory, on_token=batching.on_token
                ),
            )
            if report.captioned == 0:
                check_language(job.language, [text.caption for text in seen])
            for (path, _, (width, height)), text in zip(read, seen, strict=True):
                files = caption_file_contents(
                    path, CaptionedImage(path.name, width, height, text), job.format
                )
                kept = () if job.overwrite else [file for file in files if file.exists()]
                wanted = {file: files[file] for file in files if file not in kept}
                write_files(wanted, overwrite=True)
            report.captioned += len(read)
        behind += len(chunk)
        if on_picture is not None:
            on_picture(behind, total)
    return report


def _todo(folder: Path, job: CaptionFolderOptions, report: CaptionFolderReport) -> list[Path]:
    """Return this process's pictures that want a caption; note the others in the report."""
    todo = []
    named: dict[Path, Path] = {}
    for path in list_images(folder):
        other = named.setdefault(path.with_suffix(""), path)
        name = other.relative_to(folder).as_posix().encode()
        if zlib.crc32(name) % job.processes != job.process:
            continue
        if other is not path:
            report.failed[path] = f"its caption would have the name of {other.name}'s: rename it"
        elif not job.overwrite and all(
            file.exists() for file in caption_file_paths(path, job.format)
        ):
            report.skipped += 1
        else:
            todo.append(path)
    return todo


def _read_all(
    paths: list[Path], report: CaptionFolderReport
) -> Iterator[tuple[Path, Tensor, tuple[int, int]]]:
    for path in paths:
        try:
            yield path, *read_image(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            report.failed[path] = f"cannot be read ({error or type(error).__name__})"


def read_image(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Return a picture, float [H,W,C] in 0..1 with 3 or 4 channels, and its width and height.

    It is turned as its camera says, and reduced to at most LARGEST pixels a side; the width and
    height are those in the file. Raises what Pillow raises for a file that is no picture.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        size = picture.size
        if picture.mode.startswith("I"):  # 16 bits
            picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
        transparent = "A" in picture.getbands() or "transparency" in picture.info
        picture = picture.convert("RGBA" if transparent else "RGB")
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        return to_tensor(picture), size
