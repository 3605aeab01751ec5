"""Writes captions to files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .sockets import GROUNDING

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding

CATEGORY = "Kosmos DreamBooth/look"
FORMATS = ["txt", "json", "txt and json"]


class SaveCaptions(io.ComfyNode):
    """Writes captions to files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SaveCaptions",
            display_name="Save Captions",
            category=CATEGORY,
            description="Saves captions as text for trainers, as JSON with their boxes, or as a "
            "COCO set: in the output folder, with the pictures if wanted, or beside the pictures "
            "they were made from.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures: a batch, or a list of any sizes."),
                GROUNDING.Input("grounding", tooltip="Their captions and boxes."),
                io.String.Input(
                    "folder",
                    default="captions",
                    tooltip="A folder inside ComfyUI's output folder; it is made when needed.",
                ),
                io.Combo.Input(
                    "format",
                    options=FORMATS,
                    default="txt",
                    tooltip="txt: the caption alone, as trainers read it. json: with phrases and "
                    "boxes.",
                ),
                io.Boolean.Input(
                    "save_images",
                    default=True,
                    tooltip="Also save the pictures, as PNG beside their captions.",
                ),
                io.Boolean.Input(
                    "coco",
                    default=False,
                    tooltip="Also write coco_instances.json and coco_captions.json about the set.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace files that are there. Off: unnamed pictures get the next free "
                    "numbers, and a name that is taken is an error.",
                ),
                io.String.Input(
                    "files",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The pictures' file names, one a line, if their captions shall have "
                    "the same names. Empty: picture_00001 and so on.",
                ),
                io.Boolean.Input(
                    "beside_inputs",
                    default=False,
                    optional=True,
                    tooltip="Write beside the named files in ComfyUI's input folder, in place of "
                    "the output folder; the pictures themselves are left as they are.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="paths",
                    is_output_list=True,
                    tooltip="Where each picture's caption went.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        grounding: list[Grounding],
        folder: list[str],
        format: list[str],
        save_images: list[bool],
        coco: list[bool],
        overwrite: list[bool],
        files: list[str] | None = None,
        beside_inputs: list[bool] | None = None,
    ) -> io.NodeOutput:
        """Write the files."""
        from ..kosmos.files.caption_files import (
            caption_file_contents,
            caption_file_paths,
            coco_file_contents,
            require_absent,
            write_files,
            write_image,
        )
        from ..kosmos.files.coco import CaptionedImage

        images = [picture for batch in image for picture in batch]
        seen = [picture for part in grounding for picture in part.pictures]
        if len(seen) != len(images):
            raise UserError(
                f"There are {len(images)} pictures but captions for {len(seen)}: connect the "
                "grounding that was made from the same pictures."
            )
        named = [line.strip() for text in files or [] for line in text.splitlines() if line.strip()]
        beside = bool(beside_inputs and beside_inputs[0])
        pictures = _paths(named, len(images), folder[0].strip(), beside, overwrite[0])
        entries = [
            CaptionedImage(path.name, picture.shape[1], picture.shape[0], text)
            for path, picture, text in zip(pictures, images, seen, strict=True)
        ]
        written: dict[Path, str] = {}
        for path, entry in zip(pictures, entries, strict=True):
            written |= caption_file_contents(path, entry, format[0])
        if coco[0]:
            written |= coco_file_contents(pictures[0].parent, entries)
        with_pictures = save_images[0] and not beside
        if with_pictures and not overwrite[0]:
            require_absent([*written, *pictures])
        write_files(written, overwrite=overwrite[0])
        if with_pictures:
            for path, picture in zip(pictures, images, strict=True):
                write_image(path, picture)
        paths = [str(caption_file_paths(path, format[0])[0]) for path in pictures]
        host.show_text(f"{len(paths)} captions in {pictures[0].parent}")
        return io.NodeOutput(paths)


def _paths(named: list[str], count: int, folder: str, beside: bool, overwrite: bool) -> list[Path]:
    """Return where the pictures lie, or would lie, beside whose paths captions are written."""
    if beside and not named:
        raise UserError(
            "beside_inputs needs to know the pictures' files: name them in files, one a line."
        )
    if named and len(named) != count:
        raise UserError(
            f"There are {count} pictures but {len(named)} names in files: give one for each."
        )
    if beside:
        paths = [host.input_folder(name) for name in named]
        gone = [path.name for path in paths if not path.is_file()]
        if gone:
            raise UserError(
                f'There is no "{gone[0]}" in ComfyUI\'s input folder: name the files as Load Image '
                "does."
            )
        return paths
    place = host.output_folder(folder)
    if named:
        names = [Path(name.replace("\\", "/")).stem for name in named]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f'Two files are called "{twice}": give each its own name.')
        return [host.output_folder(folder, f"{name}.png") for name in names]
    first = 1 if overwrite else _next_number(place)
    return [place / f"picture_{first + k:05}.png" for k in range(count)]


def _next_number(place: Path) -> int:
    numbers = [
        int(match[1])
        for path in (place.iterdir() if place.is_dir() else [])
        if (match := re.fullmatch(r"picture_(\d+)\.\w+", path.name))
    ]
    return max(numbers, default=0) + 1
