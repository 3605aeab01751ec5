"""The node that captions the images of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..kosmos.generate.language import ENGLISH
from ..shared.errors import UserError
from . import host
from .batch_inputs import batch_size_input
from .caption_inputs import (
    caption_language_input,
    caption_prompt,
    file_format_input,
    given_captions,
    given_captions_input,
    prompt_inputs,
    trigger_word_inputs,
    trigger_word_rule,
)
from .sockets import KOSMOS

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos


def _input_folder(name: str) -> Path:
    return host.input_path() if name.strip() in ("", ".") else host.input_path(name.strip())


class CaptionFolder(io.ComfyNode):
    """A caption file for each image of a folder that has none."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="CaptionFolder",
            display_name="Caption Folder",
            category="Kosmos DreamBooth/vision",
            search_aliases="batch caption, caption dataset, auto caption, folder, florence, tagger",
            advanced="batch_size",
            description="Writes a caption file next to each image of a folder that has none, for "
            "any number of images. After Cancel, queueing again goes on where it stopped and "
            "captions new images too.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                KOSMOS.Input(
                    "kosmos",
                    optional=True,
                    tooltip="The model, from Load Kosmos-2; or connect captions.",
                ),
                io.String.Input(
                    "folder",
                    default=".",
                    tooltip="A folder inside ComfyUI's input folder; subfolders are included. '.' "
                    "is the input folder itself.",
                ),
                *prompt_inputs(),
                file_format_input(),
                io.Int.Input(
                    "max_new_tokens",
                    default=128,
                    min=1,
                    max=1024,
                    tooltip="Longest caption in tokens; a word is about one token, a box takes 4.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace existing caption files, also those you wrote yourself.",
                ),
                batch_size_input("Images"),
                caption_language_input(),
                given_captions_input(),
                *trigger_word_inputs(),
            ],
            outputs=[
                io.String.Output(
                    display_name="files",
                    is_output_list=True,
                    tooltip="The images that have a caption, by their names in the input folder.",
                ),
                io.String.Output(
                    display_name="captions", is_output_list=True, tooltip="Their captions."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How many images were captioned, had a caption already, or failed, and "
                    "why.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: list[str], **_: object) -> str:
        """Run again when a file of the folder is new, deleted or changed."""
        return host.folder_fingerprint(_input_folder(folder[0]))

    @classmethod
    def execute(
        cls,
        folder: list[str],
        style: list[str],
        prompt: list[str],
        format: list[str],
        max_new_tokens: list[int],
        overwrite: list[bool],
        batch_size: list[int],
        language: list[str] | None = None,
        kosmos: list[Kosmos] | None = None,
        captions: list[str] | None = None,
        trigger_word: list[str] | None = None,
        token: list[str] | None = None,
        class_name: list[str] | None = None,
    ) -> io.NodeOutput:
        """Caption the folder."""
        from ..kosmos.files.caption_files import read_caption
        from ..kosmos.files.folder_captions import CaptionFolderOptions, caption_folder
        from ..shared.batching import BatchOptions
        from ..shared.image_files import list_images

        if (kosmos is None) == (captions is None):
            connected = "neither is" if captions is None else "both are"
            raise UserError(f"Connect either kosmos or captions: {connected} connected.")
        spoken = (language or [ENGLISH])[0]
        change = trigger_word_rule(trigger_word, token, class_name)
        image_folder = _input_folder(folder[0])
        paths = list_images(image_folder)
        if not paths:
            raise UserError(
                f'There is no image in "{folder[0]}" of ComfyUI\'s input folder: put some there.'
            )
        given = given_captions(captions, len(paths)) if captions is not None else None
        if kosmos is not None:
            host.load_to_device(kosmos[0].patcher)
        progress = host.Progress(len(paths))
        report = caption_folder(
            kosmos[0] if kosmos else dict(zip(paths, given or [], strict=True)),
            image_folder,
            CaptionFolderOptions(
                caption_prompt(style[0], prompt[0], spoken) if kosmos else "",
                spoken,
                format[0],
                max_new_tokens[0],
                overwrite[0],
            ),
            batching=BatchOptions(
                batch_size[0], host.free_memory(), on_token=host.check_interrupted
            ),
            on_image=lambda done, _: progress.step(done),
            change=change,
        )
        texts = {
            path: read_caption(path, report.notes.append)
            for path in paths
            if path not in report.failed
        }
        host.show_text(str(report))
        written = {path: text for path, text in texts.items() if text is not None}
        if not written:
            raise UserError(f'No image in "{folder[0]}" could be read and captioned: {report}')
        root = host.input_path()
        return io.NodeOutput(
            [path.relative_to(root).as_posix() for path in written],
            list(written.values()),
            str(report),
        )
