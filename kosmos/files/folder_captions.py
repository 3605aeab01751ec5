"""Caption all images of a folder; an interrupted run can be resumed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
"""Larger images are reduced to this many pixels a side when they are read."""

CHUNK_SIZE = 32
"""Images in memory at a time."""


@dataclass(frozen=True)
class CaptionFolderOptions:
    """How to caption a folder: see `caption` and CAPTION_FORMATS.

    `overwrite` also captions images that have a caption. `world_size` processes share a folder,
    this one is number `rank`, from 0; the file name decides to which an image belongs.
    """

    prompt: str = BRIEF
    language: str = ENGLISH
    format: str = "txt"
    max_new_tokens: int = 128
    overwrite: bool = False
    rank: int = 0
    world_size: int = 1


@dataclass
class CaptionFolderReport:
    """The result for a folder: numbers of images, and the failed ones with the reason."""

    captioned: int = 0
    skipped: int = 0
    failed: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.captioned} captioned, {self.skipped} skipped, {len(self.failed)} failed"]
        return "\n".join(lines + [f"  {path}: {reason}" for path, reason in self.failed.items()])


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, sorted, without hidden files and folders.

    Raises UserError when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give a folder with images.")
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
    options: CaptionFolderOptions,
    *,
    batching: BatchOptions = DEFAULT_BATCHES,
    on_image: Callable[[int, int], None] | None = None,
) -> CaptionFolderReport:
    """Write a caption next to each image of a folder that has none.

    Captions are written after each chunk of images, each file atomically, so a run after an
    interruption captions the remaining images. Images that cannot be read are reported as failed.
    `on_image` is called as on_image(done, total) after each chunk.

    Raises UserError when the folder is missing or cannot be written to, and when the model does not
    generate the requested language.
    """
    report = CaptionFolderReport()
    pending = _pending(folder, options, report)
    done = report.skipped + len(report.failed)
    total = done + len(pending)
    for start in range(0, len(pending), CHUNK_SIZE):
        chunk = pending[start : start + CHUNK_SIZE]
        images = list(_read_images(chunk, report))
        if images:
            texts = caption(
                kosmos,
                [image for _, image, _ in images],
                options.prompt,
                max_new_tokens=options.max_new_tokens,
                batching=replace(batching, on_batch=None),
            )
            if report.captioned == 0:
                check_language(options.language, [text.caption for text in texts])
            for (path, _, (width, height)), text in zip(images, texts, strict=True):
                image = CaptionedImage(path.name, width, height, text)
                files = caption_file_contents(path, image, options.format)
                if not options.overwrite:
                    files = {file: text for file, text in files.items() if not file.exists()}
                write_files(files, overwrite=True)
            report.captioned += len(images)
        done += len(chunk)
        if on_image is not None:
            on_image(done, total)
    return report


def _pending(
    folder: Path, options: CaptionFolderOptions, report: CaptionFolderReport
) -> list[Path]:
    """Return the images of this process without a caption; add the others to the report."""
    pending = []
    by_stem: dict[Path, Path] = {}
    for path in list_images(folder):
        first = by_stem.setdefault(path.with_suffix(""), path)
        name = first.relative_to(folder).as_posix().encode()
        if zlib.crc32(name) % options.world_size != options.rank:
            continue
        files = caption_file_paths(path, options.format)
        if first is not path:
            report.failed[path] = f"its caption file would be that of {first.name}: rename it"
        elif not options.overwrite and all(file.exists() for file in files):
            report.skipped += 1
        else:
            pending.append(path)
    return pending


def _read_images(
    paths: list[Path], report: CaptionFolderReport
) -> Iterator[tuple[Path, Tensor, tuple[int, int]]]:
    for path in paths:
        try:
            yield path, *read_image(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            report.failed[path] = f"cannot be read ({error or type(error).__name__})"


def read_image(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Return an image, float [H,W,C] in 0..1 with 3 or 4 channels, and its width and height.

    The EXIF orientation is applied, and the image is reduced to at most MAX_SIDE pixels a side; the
    width and height are those of the file. Raises Pillow's errors for a file that is no image.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        size = image.size
        if image.mode.startswith("I"):  # 16 bits
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        transparent = "A" in image.getbands() or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        return to_tensor(image), size
