"""What the nodes that write captions share: style, prompt, language and file format."""

from __future__ import annotations

from comfy_api.latest import io

from ..kosmos.generate.language import ENGLISH, LANGUAGES, localized_prompt
from ..shared.errors import UserError


def prompt_inputs() -> list[io.Input]:
    """The widgets for a caption's style and a prompt of the user's own."""
    return [
        io.Combo.Input(
            "style",
            options=["brief", "detailed", "custom"],
            default="brief",
            tooltip="brief: one sentence. detailed: a paragraph. custom: the prompt below.",
        ),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            tooltip="For the custom style only. The beginning of a caption, such as 'A photo of', "
            "is continued and stays in the caption; a prompt that ends in a colon or a question "
            "mark is answered and left out of the caption.",
        ),
    ]


def caption_prompt(style: str, prompt: str, language: str) -> str:
    """Return the prompt of a style in a language. Raises UserError for an empty custom prompt."""
    from ..kosmos.generate.caption import BRIEF, DETAILED

    if style != "custom":
        detailed = style == "detailed"
        return localized_prompt(language, DETAILED if detailed else BRIEF, detailed=detailed)
    if not prompt.strip():
        raise UserError(
            'The prompt is empty: write one, or choose the style "brief" or "detailed".'
        )
    return prompt


def caption_language_input() -> io.Combo.Input:
    """The widget for the language of the brief and detailed prompts."""
    return io.Combo.Input(
        "language",
        options=LANGUAGES,
        default=ENGLISH,
        optional=True,
        tooltip="Language of the brief and detailed captions. The published Kosmos-2 writes little "
        "but English: use Fine-tune Captions for other languages, or Translate Caption, which "
        "keeps the boxes.",
    )


def file_format_input() -> io.Combo.Input:
    """The widget for the files that captions are written to."""
    return io.Combo.Input(
        "format",
        options=["txt", "json", "txt and json"],
        default="txt",
        tooltip="txt: the caption alone, the caption file that kohya's scripts and other trainers "
        "read. json: with phrases and boxes.",
    )
