"""What the nodes that write captions share: style, prompt, language and file format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..kosmos.generate.language import ENGLISH, LANGUAGES, localized_prompt
from ..shared.errors import UserError
from ..shared.images import one_per_image
from ..training.data.trigger_words import TRIGGER_RULES, ground_trigger_word

if TYPE_CHECKING:
    from ..kosmos.grounding import GroundedText

NO_TRIGGER = "none"


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


def trigger_word_inputs() -> list[io.Input]:
    """The widgets that put a subject's trigger word into captions."""
    return [
        io.Combo.Input(
            "trigger_word",
            options=[NO_TRIGGER, *TRIGGER_RULES],
            default=NO_TRIGGER,
            optional=True,
            tooltip="Where the token below goes in each caption. none: nowhere. replace class: in "
            "place of the class name; before class: before it; in front: at the start, as tags.",
        ),
        io.String.Input(
            "token",
            default="sks",
            optional=True,
            tooltip="Trigger word (instance token) of the subject: a rare word without spaces. Not "
            "used with trigger_word = none.",
        ),
        io.String.Input(
            "class_name",
            default="dog",
            optional=True,
            tooltip="Class of the subject, as the captions name it: dog, cup, house. Not used with "
            "trigger_word = none.",
        ),
    ]


def trigger_word_rule(
    trigger_word: Sequence[str] | None,
    token: Sequence[str] | None,
    class_name: Sequence[str] | None,
) -> Callable[[GroundedText], GroundedText]:
    """Return what changes a caption by the inputs, each a list with one value.

    Raises UserError for a token with spaces.
    """
    rule = trigger_word[0] if trigger_word else NO_TRIGGER
    if rule == NO_TRIGGER:
        return lambda text: text
    word, noun = (token or [""])[0].strip(), (class_name or [""])[0].strip()
    if not word or len(word.split()) > 1:
        raise UserError(f'The token "{word}" must be one word without spaces, for example "sks".')
    if not noun:
        raise UserError('class_name is empty: enter what the subject is, for example "dog".')
    return lambda text: ground_trigger_word(text, word, noun, rule)


def given_captions(captions: Sequence[str], count: int) -> list[GroundedText]:
    """Return the texts of another captioner, without boxes. Raises UserError unless `count`."""
    from ..kosmos.grounding import GroundedText

    return [GroundedText(text.strip()) for text in one_per_image(captions, count, "captions")]


def shared_caption(captions: Sequence[str], count: int) -> list[str]:
    """Return a sentence, or none, about one text for several images: captioners read batches so."""
    if len(captions) != 1 or count == 1:
        return []
    return [
        f"All {count} images have the one caption that is connected: to get one for each, give "
        "them to the captioner as a list instead of a batch."
    ]


def given_captions_input() -> io.String.Input:
    """The socket for the texts of another captioner."""
    return io.String.Input(
        "captions",
        optional=True,
        force_input=True,
        tooltip="A caption for each image, in their order, from any node that writes texts "
        "(TextGenerate, Florence-2, JoyCaption ...), in place of Kosmos-2's.",
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
