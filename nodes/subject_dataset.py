"""The node that makes a training set of a subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import one_per_image, to_rgb, to_uint8
from ..training.data.subject import Subject, caption_from_templates, caption_with_token
from ..training.data.trigger_words import TRIGGER_RULES, with_trigger_word
from . import host
from .caption_inputs import shared_caption
from .image_inputs import grounded_texts, split_images, split_masks
from .sockets import (
    DIFFUSION,
    GROUNDING,
    SUBJECT,
)
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..kosmos.grounding import GroundedText, Grounding

DESCRIPTION = "replace description"
"""The rule of `caption_with_token`."""


class SubjectDataset(io.ComfyNode):
    """Images of a subject, with captions that contain its trigger word."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="SubjectDataset",
            display_name="Subject Dataset",
            category="Kosmos DreamBooth/training",
            search_aliases="dreambooth, dataset, training images, lora training, caption",
            advanced="templates",
            essentials_category="Image Generation",
            description="Makes the training set of a subject: 3 to 5 images, a rare token as its "
            "trigger word, and captions in which the token replaces the description of the "
            "subject.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="Images of one subject: a batch, or a list of images of any size. Best "
                    "are 3 to 5 with different backgrounds and poses.",
                ),
                io.String.Input(
                    "token",
                    default="sks",
                    tooltip="Trigger word (instance token) of the subject: a rare word without "
                    "spaces.",
                ),
                io.String.Input(
                    "class_name",
                    default="dog",
                    tooltip="Class of the subject, as one noun: dog, cup, house.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="A caption for each image, or one for all. Without captions the "
                    'templates below are used, or "a <token> <class_name>".',
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="From Grounded Caption: which words of a caption describe the subject. "
                    "Without captions above, its own captions are used.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Masks of the subject; outside them the loss weight is the "
                    "background_weight of Training Options. Without masks the boxes of the "
                    "grounding are used.",
                ),
                io.Boolean.Input(
                    "crop",
                    default=False,
                    optional=True,
                    tooltip="Crop each image to a square around the subject. Use it when the "
                    "subject is small in its images or off-center.",
                ),
                DIFFUSION.Input(
                    "diffusion",
                    optional=True,
                    tooltip="The base model: the report then warns if the token has a meaning for "
                    "its text encoder already, or the class has none.",
                ),
                io.String.Input(
                    "templates",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Captions for images without one, one template per line; {subject} is "
                    'replaced by the token and the class: "a photo of a {subject}". Each training '
                    "step picks a line at random.",
                ),
                io.Combo.Input(
                    "trigger_word",
                    options=[DESCRIPTION, *TRIGGER_RULES],
                    default=DESCRIPTION,
                    optional=True,
                    tooltip="Where the token goes in a caption. replace description: in place of "
                    "all words about the subject, for short captions. replace class: in place of "
                    "the class name; before class: before it; in front: at the start, as tags.",
                ),
            ],
            outputs=[
                SUBJECT.Output(
                    display_name="subject", tooltip="The training set, for DreamBooth Train."
                ),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The caption of each image, with the token.",
                ),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="Contact sheet of the images with their captions; darker outside the "
                    "mask.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Warnings about what may harm the training."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        token: list[str],
        class_name: list[str],
        captions: list[str] | None = None,
        grounding: list[Grounding] | None = None,
        mask: list[torch.Tensor] | None = None,
        crop: list[bool] | None = None,
        diffusion: list[Diffusion] | None = None,
        templates: list[str] | None = None,
        trigger_word: list[str] | None = None,
    ) -> io.NodeOutput:
        """Put the token into the captions, and check the training set."""
        from ..drawing.subject_sheet import draw_subject_sheet
        from ..training.data.subject_checks import subject_warnings

        images = [to_rgb(one[None])[0].cpu().numpy() for one in split_images(image)]
        grounded = grounded_texts(grounding, len(images)) if grounding else []
        texts = one_per_image(
            captions or [text.caption for text in grounded] or [""], len(images), "captions"
        )
        name, noun = token[0].strip(), class_name[0].strip()
        phrases: list[list[tuple[int, int]]] = [[] for _ in images]
        for k, grounded_text in enumerate(grounded):
            if grounded_text.caption == texts[k]:
                phrases[k] = [(phrase.start, phrase.end) for phrase in grounded_text.phrases]
        default = caption_from_templates(templates[0] if templates else "", name, noun)
        rule = trigger_word[0] if trigger_word else DESCRIPTION
        token_captions = tuple(
            _token_caption(text, name, noun, spans, rule) if text.strip() else default
            for text, spans in zip(texts, phrases, strict=True)
        )
        masks = _masks(images, mask or [], grounded, noun)
        subject = Subject(tuple(images), token_captions, name, noun, masks)
        if crop and crop[0]:
            subject = _cropped(subject)
        model = diffusion[0] if diffusion else None
        warnings = shared_caption(captions or [], len(images))
        warnings += subject_warnings(
            subject, model.tokenizer if model else None, model.resolution if model else 0
        )
        report = "\n".join(warnings) or "No problems were found in the training set."
        host.show_text(report)
        sheet = draw_subject_sheet(subject.images, subject.captions, subject.masks)
        return io.NodeOutput(subject, list(token_captions), sheet, report)


def _token_caption(
    text: str, token: str, noun: str, phrases: Sequence[tuple[int, int]], rule: str
) -> str:
    """Return a caption, whose lines are alternatives, with the token in each of them."""
    if rule == DESCRIPTION and phrases:
        return caption_with_token(text, token, noun, phrases)
    lines = text_lines(text)  # a blank line would be an empty caption
    if rule != DESCRIPTION:
        return with_trigger_word("\n".join(lines), token, noun, rule)
    return "\n".join(caption_with_token(line, token, noun) for line in lines)


def _masks(
    images: Sequence[np.ndarray],
    masks: Sequence[torch.Tensor],
    grounded: Sequence[GroundedText],
    noun: str,
) -> tuple[np.ndarray, ...]:
    """Return the masks as uint8 [H,W], else masks of the grounding's boxes, else none."""
    from ..training.data.masks import box_mask, subject_boxes

    if masks:
        return tuple(np.asarray(to_uint8(mask).cpu()) for mask in split_masks(masks))
    return tuple(
        box_mask(subject_boxes(text, noun), *image.shape[:2])
        for text, image in zip(grounded, images, strict=False)
    )


def _cropped(subject: Subject) -> Subject:
    """Return the subject with images and masks cropped to squares around it.

    An image whose mask is empty stays as it is.
    """
    from ..training.data.masks import crop_to_mask

    if not any((mask > 127).any() for mask in subject.masks):
        raise UserError(
            "crop needs masks or boxes of the subject: connect grounding or mask, or switch it off."
        )
    pairs = [
        crop_to_mask(image, mask) if (mask > 127).any() else (image, mask)
        for image, mask in zip(subject.images, subject.masks, strict=True)
    ]
    return replace(
        subject,
        images=tuple(image for image, _ in pairs),
        masks=tuple(mask for _, mask in pairs),
    )
