"""Captions what is new in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..kosmos.generate.language import ENGLISH, LANGUAGES, prompt_in
from ..shared.errors import UserError
from . import host
from .batch_inputs import batch_size_input
from .sockets import KOSMOS

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos

CATEGORY = "Kosmos DreamBooth/look"
FORMATS = ["txt", "json", "txt and json"]


def _input_folder(name: str) -> Path:
    return host.input_folder() if name.strip() in ("", ".") else host.input_folder(name.strip())


class CaptionFolder(io.ComfyNode):
    """Captions what is new in a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CaptionFolder",
            display_name="Caption Folder",
            category=CATEGORY,
            description="Writes a caption beside each picture of a folder that has none. It may "
            "hold any number of pictures; a run that was cancelled goes on, and new pictures are "
            "seen whenever you queue again.",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.String.Input(
                    "folder",
                    default=".",
                    tooltip="A folder inside ComfyUI's input folder, with its subfolders; '.' is "
                    "all of it.",
                ),
                io.Combo.Input(
                    "style",
                    options=["brief", "detailed", "custom"],
                    default="brief",
                    tooltip="As in Grounded Caption.",
                ),
                io.String.Input(
                    "prompt", default="", multiline=True, tooltip="For custom style only."
                ),
                io.Combo.Input(
                    "format",
                    options=FORMATS,
                    default="txt",
                    tooltip="txt: the caption alone, as trainers read it. json: with phrases and "
                    "boxes.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=128,
                    min=1,
                    max=1024,
                    tooltip="Where a caption is cut off at the latest.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Write captions that are there anew, yours included.",
                ),
                batch_size_input("Pictures"),
                io.Combo.Input(
                    "language",
                    options=LANGUAGES,
                    default=ENGLISH,
                    optional=True,
                    tooltip="As in Grounded Caption.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="files",
                    is_output_list=True,
                    tooltip="The pictures with a caption, by their names in the input folder.",
                ),
                io.String.Output(
                    display_name="captions", is_output_list=True, tooltip="Their captions."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How many were captioned or had one, and what could not be read.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> str:
        """Run again when a picture or a caption came, went or changed."""
        place = _input_folder(folder)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        told = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    @classmethod
    def execute(
        cls,
        kosmos: Kosmos,
        folder: str,
        style: str,
        prompt: str,
        format: str,
        max_new_tokens: int,
        overwrite: bool,
        batch_size: int,
        language: str = ENGLISH,
    ) -> io.NodeOutput:
        """Caption the folder."""
        from ..kosmos.files.caption_files import read_caption
        from ..kosmos.files.folder_captions import CaptionFolderOptions, caption_folder, list_images
        from ..kosmos.generate.caption import BRIEF, DETAILED
        from ..shared.batching import BatchOptions

        if style == "custom" and not prompt.strip():
            raise UserError('The prompt is empty: write one, or choose the style "brief".')
        if style != "custom":
            prompt = BRIEF if style == "brief" else DETAILED
            prompt = prompt_in(language, prompt, detailed=style == "detailed")
        place = _input_folder(folder)
        pictures = list_images(place)
        if not pictures:
            raise UserError(
                f'There is no picture in "{folder}" of ComfyUI\'s input folder: put some there.'
            )
        host.load_to_device(kosmos.patcher)
        progress = host.Progress(len(pictures))
        report = caption_folder(
            kosmos,
            place,
            CaptionFolderOptions(prompt, language, format, max_new_tokens, overwrite),
            batching=BatchOptions(batch_size, host.free_memory(), on_token=host.check_interrupted),
            on_picture=lambda behind, _: progress.step(behind),
        )
        host.show_text(str(report))
        told = {path: read_caption(path) for path in pictures if path not in report.failed}
        done = {path: text for path, text in told.items() if text is not None}
        if not done:
            raise UserError(f'No picture in "{folder}" could be read: {report}')
        root = host.input_folder()
        return io.NodeOutput(
            [path.relative_to(root).as_posix() for path in done], list(done.values()), str(report)
        )
