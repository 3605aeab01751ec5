"""Caption all images of a folder; an interrupted run can be resumed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ...shared.batching import DEFAULT_BATCHES, BatchOptions
from ...shared.errors import UserError
from ...shared.image_files import list_images, read_image
from ...shared.images import READ_ERRORS
from ..generate.caption import BRIEF, caption
from ..generate.language import ENGLISH, check_language
from ..grounding import GroundedText
from ..kosmos_model import Kosmos
from .caption_files import caption_file_contents, caption_file_paths, lacks_caption, write_files
from .coco import CaptionedImage

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
    """The result for a folder: numbers of images, and the failed ones with the reason.

    `notes` are sentences about caption files of other programs and in other encodings.
    """

    captioned: int = 0
    skipped: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.captioned} captioned, {self.skipped} skipped, {len(self.failed)} failed"]
        lines += [f"  {path}: {reason}" for path, reason in self.failed.items()]
        return "\n".join(lines + [f"  {note}" for note in dict.fromkeys(self.notes)])


def caption_folder(
    captioner: Kosmos | Mapping[Path, GroundedText],
    folder: Path,
    options: CaptionFolderOptions,
    *,
    batching: BatchOptions = DEFAULT_BATCHES,
    on_image: Callable[[int, int], None] | None = None,
    change: Callable[[GroundedText], GroundedText] = lambda text: text,
) -> CaptionFolderReport:
    """Write a caption next to each image of a folder that has none.

    `captioner` is a Kosmos-2, or the captions of all images that `list_images` finds. Each caption
    goes through `change` before it is written.
    Captions are written after each chunk of images, each file atomically, so a run after an
    interruption captions the remaining images. Images that cannot be read, whose caption cannot be
    written or is empty are reported as failed.
    `on_image` is called as on_image(done, total) after each chunk.

    Raises UserError when the folder is missing, and when the model does not generate the requested
    language.
    """
    report = CaptionFolderReport()
    pending = _pending(folder, options, report)
    done = report.skipped + len(report.failed)
    total = done + len(pending)
    paths = list(pending)
    for start in range(0, len(paths), CHUNK_SIZE):
        chunk = paths[start : start + CHUNK_SIZE]
        images = list(_read_images(chunk, report))
        if images:
            if isinstance(captioner, Kosmos):
                texts = caption(
                    captioner,
                    [image for _, image, _ in images],
                    options.prompt,
                    max_new_tokens=options.max_new_tokens,
                    batching=replace(batching, on_batch=None),
                )
                if report.captioned == 0:
                    check_language(options.language, [text.caption for text in texts])
            else:
                texts = [captioner[path] for path, _, _ in images]
            for (path, _, (width, height)), text in zip(images, texts, strict=True):
                entry = CaptionedImage(path.name, width, height, change(text))
                _write(path, entry, options, report, pending[path])
        done += len(chunk)
        if on_image is not None:
            on_image(done, total)
    return report


def _write(
    path: Path,
    image: CaptionedImage,
    options: CaptionFolderOptions,
    report: CaptionFolderReport,
    taken: Collection[Path],
) -> None:
    """Write the caption files of an image, or report why there are none."""
    if not image.text.caption.strip():
        report.failed[path] = "the model wrote an empty caption: change the prompt"
        return
    files = caption_file_contents(path, image, options.format, taken)
    if not options.overwrite:
        files = {file: text for file, text in files.items() if lacks_caption(file)}
    try:
        write_files(files, overwrite=True)
    except UserError as error:
        report.failed[path] = str(error)
    else:
        report.captioned += 1


def _pending(
    folder: Path, options: CaptionFolderOptions, report: CaptionFolderReport
) -> dict[Path, Collection[Path]]:
    """Return the images of this process without a caption, and the caption files taken for each.

    The others are added to the report. Of a.jpg and a.png the first takes a.txt.
    """
    pending: dict[Path, Collection[Path]] = {}
    by_stem: dict[Path, Path] = {}
    for path in list_images(folder):
        first = by_stem.setdefault(path.with_suffix(""), path)
        name = os.fsencode(first.relative_to(folder).as_posix())
        if zlib.crc32(name) % options.world_size != options.rank:
            continue
        taken = caption_file_paths(first, options.format) if first is not path else ()
        files = caption_file_paths(path, options.format, taken, report.notes.append)
        if not options.overwrite and not any(map(lacks_caption, files)):
            report.skipped += 1
        else:
            pending[path] = taken
    return pending


def _read_images(
    paths: list[Path], report: CaptionFolderReport
) -> Iterator[tuple[Path, Tensor, tuple[int, int]]]:
    for path in paths:
        try:
            yield path, *read_image(path)
        except READ_ERRORS as error:
            report.failed[path] = f"cannot be read ({error or type(error).__name__})"
