"""The node that writes captions to files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host
from .caption_inputs import (
    file_format_input,
    given_captions,
    given_captions_input,
    shared_caption,
    trigger_word_inputs,
    trigger_word_rule,
)
from .image_inputs import grounded_texts, split_images
from .sockets import GROUNDING
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding


class SaveCaptions(io.ComfyNode):
    """Caption files, JSON and COCO annotations."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="SaveCaptions",
            display_name="Save Captions",
            category="Kosmos DreamBooth/vision",
            search_aliases="save caption, caption file, txt, coco, dataset, export captions",
            description="Saves captions as text files for training, as JSON with their boxes, or "
            "as a COCO dataset: in the output folder, with or without the images, or next to the "
            "original images in the input folder.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "image", tooltip="The images: a batch, or a list of images of any size."
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="The captions and boxes of the images; or connect captions.",
                ),
                io.String.Input(
                    "folder",
                    default="captions",
                    tooltip="A folder inside ComfyUI's output folder; it is created when needed.",
                ),
                file_format_input(),
                io.Boolean.Input(
                    "save_images",
                    default=True,
                    tooltip="Also save the images, as PNG next to their caption files.",
                ),
                io.Boolean.Input(
                    "coco",
                    default=False,
                    tooltip="Also write COCO annotations of all images: coco_instances.json and "
                    "coco_captions.json.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace existing files. Off: images without a name get the next free "
                    "numbers, and a name that is taken is an error.",
                ),
                io.String.Input(
                    "files",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="File names of the images, one per line; the caption files get the "
                    "same names. Empty: picture_00001 and so on.",
                ),
                io.Boolean.Input(
                    "beside_inputs",
                    default=False,
                    optional=True,
                    tooltip="Write the captions next to the files named above, in ComfyUI's input "
                    "folder instead of the output folder; the images are not changed.",
                ),
                given_captions_input(),
                *trigger_word_inputs(),
            ],
            outputs=[
                io.String.Output(
                    display_name="paths",
                    is_output_list=True,
                    tooltip="The path of each caption file.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        folder: list[str],
        format: list[str],
        save_images: list[bool],
        coco: list[bool],
        overwrite: list[bool],
        files: list[str] | None = None,
        beside_inputs: list[bool] | None = None,
        grounding: list[Grounding] | None = None,
        captions: list[str] | None = None,
        trigger_word: list[str] | None = None,
        token: list[str] | None = None,
        class_name: list[str] | None = None,
    ) -> io.NodeOutput:
        """Write the files."""
        from ..kosmos.files.caption_files import (
            caption_file_contents,
            coco_file_contents,
            require_absent,
            write_files,
            write_image,
        )
        from ..kosmos.files.coco import CaptionedImage
        from ..shared.images import check_images

        images = split_images(image)
        check_images(images)
        if (grounding is None) == (captions is None):
            connected = "neither is" if captions is None else "both are"
            raise UserError(f"Connect either grounding or captions: {connected} connected.")
        texts = (
            grounded_texts(grounding, len(images))
            if grounding is not None
            else given_captions(captions or [], len(images))
        )
        change = trigger_word_rule(trigger_word, token, class_name)
        texts = [change(text) for text in texts]
        next_to_inputs = bool(beside_inputs and beside_inputs[0])
        names = text_lines(*(files or []))
        paths = _paths(names, len(images), folder[0].strip(), next_to_inputs, overwrite[0])
        root = Path(os.path.commonpath([path.parent for path in paths]))
        entries = [
            CaptionedImage(path.relative_to(root).as_posix(), one.shape[1], one.shape[0], text)
            for path, one, text in zip(paths, images, texts, strict=True)
        ]
        caption_files: dict[Path, dict[Path, str]] = {}
        taken: set[Path] = set()
        for path, entry in zip(paths, entries, strict=True):
            caption_files[path] = caption_file_contents(path, entry, format[0], taken)
            taken |= caption_files[path].keys()
        coco_files = coco_file_contents(root, entries) if coco[0] else {}
        with_images = save_images[0] and not next_to_inputs
        if not overwrite[0]:
            require_absent([*taken, *coco_files, *(paths if with_images else [])])
        errors: list[str] = []
        caption_paths = []
        for path, one in zip(paths, images, strict=True):
            try:
                write_files(caption_files[path], overwrite=True)
                if with_images:
                    write_image(path, one)
                caption_paths.append(str(next(iter(caption_files[path]))))
            except UserError as error:
                errors.append(str(error))
        if not caption_paths:
            raise UserError(errors[0])
        write_files(coco_files, overwrite=True)
        notes = [*shared_caption(captions or [], len(images)), *errors]
        host.show_text("\n".join([f"{len(caption_paths)} captions in {root}", *notes]))
        return io.NodeOutput(caption_paths)


def _paths(
    names: list[str], count: int, folder: str, next_to_inputs: bool, overwrite: bool
) -> list[Path]:
    """Return the path of each image, next to which its caption files are written."""
    if next_to_inputs and not names:
        raise UserError("beside_inputs needs the images' file names: name them in files.")
    if names and len(names) != count:
        raise UserError(
            f"There are {count} images but {len(names)} names in files: give one for each."
        )
    if next_to_inputs:
        paths = [host.input_path(name) for name in names]
        _require_distinct([Path(name.replace("\\", "/")).as_posix() for name in names])
        absent = [path.name for path in paths if not path.is_file()]
        if absent:
            raise UserError(
                f'There is no "{absent[0]}" in ComfyUI\'s input folder: name the files as Load '
                "Image does."
            )
        return paths
    output = host.output_path(folder)
    if names:
        stems = [_stem(name) for name in names]
        _require_distinct(stems)
        return [host.output_path(folder, f"{stem}.png") for stem in stems]
    first = 1 if overwrite else _next_number(output)
    return [output / f"picture_{first + k:05}.png" for k in range(count)]


def _require_distinct(names: list[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f'Two files are called "{repeated}": give each its own name.')


def _stem(name: str) -> str:
    """Return a file's name without its folder and without the suffix of an image."""
    from ..shared.image_files import image_suffixes

    path = Path(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in image_suffixes() else path.name


def _next_number(folder: Path) -> int:
    numbers = [
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else [])
        if (match := re.fullmatch(r"picture_(\d+)\.\w+", path.name))
    ]
    return max(numbers, default=0) + 1
