"""SUBJECT_DATASET from pictures and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import to_uint8
from ..training.data.subject import Subject, caption_from_templates, caption_with_token
from . import host
from .sockets import (
    DIFFUSION,
    GROUNDING,
    SUBJECT,
)

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..kosmos.grounding import GroundedText, Grounding


class SubjectDataset(io.ComfyNode):
    """SUBJECT_DATASET from pictures and captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SubjectDataset",
            display_name="Subject Dataset",
            category="Kosmos DreamBooth/training",
            description="Gives a subject a name: 3 to 5 pictures of it, a rare word that will mean "
            "it, and captions in which that word stands in place of the subject's looks.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="Pictures of one subject: a batch, or a list of any sizes. Best are 3 "
                    "to 5 with different backgrounds and poses.",
                ),
                io.String.Input(
                    "token",
                    default="sks",
                    tooltip="A rare word without spaces that will mean the subject.",
                ),
                io.String.Input(
                    "class_name",
                    default="dog",
                    tooltip="What the subject is, in a word: dog, cup, house.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="A caption for each picture, or one for all. Without captions the "
                    'templates below are taken, or "a <token> <class_name>".',
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="From GroundedCaption: tells which words of a caption describe the "
                    "subject; also gives the captions when there are no others.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the subject is: what lies around it is learned less "
                    "(TrainingOptions' background_weight). Without masks the boxes of the "
                    "grounding are taken.",
                ),
                io.Boolean.Input(
                    "crop",
                    default=False,
                    optional=True,
                    tooltip="Cut each picture to a square around the subject. Good when it is "
                    "small in its pictures or off the middle.",
                ),
                DIFFUSION.Input(
                    "diffusion",
                    optional=True,
                    tooltip="The model to train: the report then says whether it knows the token "
                    "already, or the class not.",
                ),
                io.String.Input(
                    "templates",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What pictures without a caption are called, a line each; {subject} is "
                    'the token and the class: "a photo of a {subject}". Each time a picture is '
                    "learned, one line is drawn.",
                ),
            ],
            outputs=[
                SUBJECT.Output(display_name="subject", tooltip="The subject, for DreamBoothTrain."),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="Each picture's caption with the token in it.",
                ),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The pictures with their captions; what a mask leaves out is dark.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What may spoil the training, in sentences."
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
    ) -> io.NodeOutput:
        """Put the token into the captions."""
        from ..drawing.subject_sheet import draw_subject_sheet
        from ..training.data.subject_checks import subject_warnings

        pictures = [_pixels(picture) for batch in image for picture in batch]
        seen = [picture for part in grounding or [] for picture in part.pictures]
        texts = captions or [picture.caption for picture in seen]
        if not texts:
            texts = [""]
        if len(texts) == 1:
            texts = texts * len(pictures)
        if len(seen) not in (0, len(pictures)):
            raise UserError(
                f"There are {len(pictures)} pictures but the grounding of {len(seen)}: connect "
                "the same pictures to GroundedCaption and SubjectDataset."
            )
        name, noun = token[0].strip(), class_name[0].strip()
        spans = [
            [(phrase.start, phrase.end) for phrase in picture.phrases]
            if picture.caption == text
            else []
            for picture, text in zip(seen, texts, strict=False)
        ] or [[] for _ in texts]
        plain = caption_from_templates(templates[0] if templates else "", name, noun)
        personal = tuple(
            caption_with_token(text, name, noun, phrases) if text.strip() else plain
            for text, phrases in zip(texts, spans, strict=False)
        )
        masks = _masks(pictures, mask, seen, noun)
        subject = Subject(tuple(pictures), personal, name, noun, masks)
        if crop and crop[0]:
            subject = _cropped(subject)
        model = diffusion[0] if diffusion else None
        found = subject_warnings(
            subject, model.tokenizer if model else None, model.resolution if model else 0
        )
        report = "\n".join(found) or "The subject looks ready to be learned."
        host.show_text(report)
        return io.NodeOutput(
            subject,
            list(personal),
            draw_subject_sheet(subject.images, subject.captions, subject.masks),
            report,
        )


def _masks(
    pictures: Sequence[np.ndarray],
    given: Sequence[torch.Tensor] | None,
    seen: Sequence[GroundedText],
    noun: str,
) -> tuple[np.ndarray, ...]:
    """Return the masks that were given, else the boxes of the grounding, else none."""
    from ..training.data.masks import box_mask, subject_boxes

    if given:
        flat = [one for batch in given for one in batch.reshape(-1, *batch.shape[-2:])]
        return tuple(np.asarray(to_uint8(one).cpu()) for one in flat)
    return tuple(
        box_mask(subject_boxes(one, noun), *picture.shape[:2])
        for one, picture in zip(seen, pictures, strict=False)
    )


def _cropped(subject: Subject) -> Subject:
    from ..training.data.masks import crop_to_mask

    if not subject.masks:
        raise UserError(
            "crop needs to know where the subject is: connect grounding or mask, or switch it off."
        )
    pairs = [crop_to_mask(*pair) for pair in zip(subject.images, subject.masks, strict=True)]
    return replace(
        subject,
        images=tuple(picture for picture, _ in pairs),
        masks=tuple(mask for _, mask in pairs),
    )


def _pixels(picture: torch.Tensor) -> np.ndarray:
    """Turn [H,W,C] float 0..1 into uint8 [H,W,3]; grey becomes RGB, an alpha channel goes."""
    pixels = picture[..., :3].expand(*picture.shape[:2], 3)
    return np.asarray(to_uint8(pixels).cpu())
