"""Masks, crops and warnings: a subject before it is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kosmos_dreambooth.diffusion.load.model_source import load_diffusion
from kosmos_dreambooth.drawing.subject_sheet import SIDE, draw_subject_sheet
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase
from kosmos_dreambooth.training.data.masks import box_mask, crop_to_mask, subject_boxes
from kosmos_dreambooth.training.data.subject import Subject
from kosmos_dreambooth.training.data.subject_checks import subject_warnings
from PIL import Image

from tests.training.conftest import prepared

TREE, DOG = Box(0.0, 0.0, 0.2, 1.0), Box(0.5, 0.25, 0.75, 0.75)
SEEN = GroundedText(
    "a tree and a dog", (Phrase("a tree", 0, 6, (TREE,)), Phrase("a dog", 11, 16, (DOG,)))
)


def test_the_mask_is_the_box_of_the_class() -> None:
    assert subject_boxes(SEEN, "dog") == [DOG]
    assert subject_boxes(SEEN, "cat") == [TREE]
    mask = box_mask([DOG], 8, 16)
    assert mask.sum() == 255 * 4 * 4
    assert (mask[2:6, 8:12] == 255).all()
    assert (box_mask([], 4, 4) == 255).all()


def test_a_crop_is_a_square_that_holds_the_subject() -> None:
    mask = box_mask([DOG], 200, 400)
    picture = np.arange(200 * 400 * 3, dtype=np.uint32).reshape(200, 400, 3) % 251
    piece, place = crop_to_mask(picture.astype(np.uint8), mask)
    assert piece.shape[:2] == place.shape
    assert place.sum() == mask.sum()
    assert abs(place.shape[0] - place.shape[1]) <= 1
    assert place.size < mask.size / 3


def test_a_long_caption_is_named_with_its_image(epsilon_model: Path, subject: Subject) -> None:
    tokenizer = load_diffusion(epsilon_model).tokenizer
    captions = (subject.captions[0], "a dog in the snow " * 5, subject.captions[2])
    long = replace(subject, captions=captions)
    [warning] = [line for line in subject_warnings(long, tokenizer, 16) if "chunks" in line]
    assert "image 2 has 25 tokens" in warning
    assert 'cut after "dog in the"' in warning
    long = replace(subject, captions=(captions[0], captions[1] * 4, captions[2]))
    [warning] = [line for line in subject_warnings(long, None, 16) if "chunks" in line]
    assert "image 2 has at least 100 tokens" in warning


def test_problems_of_the_training_data_are_reported(epsilon_model: Path, subject: Subject) -> None:
    tokenizer = load_diffusion(epsilon_model).tokenizer
    twice = replace(subject, images=subject.images[:2] * 2, captions=("a sks dog",) * 4)
    said = " ".join(subject_warnings(twice, tokenizer, 64))
    assert "Images 1 and 3 are the same" in said
    assert "Image 1 has 16 pixels" in said
    assert 'The token "sks" is split into 3 tokens' in said
    alone = replace(subject, images=subject.images[:1], captions=("a sks dog",), token="a")  # noqa: S106
    assert [line.split(":")[0] for line in subject_warnings(alone, tokenizer, 32)] == [
        "There is 1 image only"
    ]
    without_model = " ".join(subject_warnings(replace(subject, token="Dog"), None, 0))  # noqa: S106
    assert 'The token "Dog" is a word of the class "dog"' in without_model
    assert "Image 1 has 16 pixels" in without_model
    assert "may not know it" in " ".join(
        subject_warnings(replace(subject, class_name="xyzzy"), tokenizer, 0)
    )
    masks = [box_mask([], *picture.shape[:2]) for picture in subject.images]
    masks[2] = box_mask([Box(0, 0, 1, 0.1)], *subject.images[2].shape[:2])
    [told] = subject_warnings(replace(subject, masks=tuple(masks)), None, 32)
    assert told.startswith("Image 3 has the subject outside of its center square")
    masks[2] = np.zeros_like(masks[2])
    [told] = subject_warnings(replace(subject, masks=tuple(masks)), None, 32)
    assert told.startswith("The mask of image 3 is empty")


def test_the_sheet_shows_every_image(subject: Subject) -> None:
    masks = tuple(np.zeros(image.shape[:2], np.uint8) for image in subject.images)
    bright = draw_subject_sheet(subject.images, subject.captions)[0]
    dark = draw_subject_sheet(subject.images, subject.captions, masks)[0]
    assert bright.shape[1] == 3 * SIDE
    assert bright[:SIDE].mean() > 2 * dark[:SIDE].mean()


@pytest.mark.parametrize("flip", [False, True])
def test_the_background_has_its_own_weight_in_the_loss(
    make_run, tmp_path: Path, subject, flip: bool
) -> None:
    for background in (0.0, 0.1, 1.0):
        settings = {"flip": flip, "background_weight": background}
        run = make_run(tmp_path, **settings)
        for k, image in enumerate(subject.images):
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[:, : image.shape[1] // 2] = 255
            Image.fromarray(mask).save(run.masks / f"{k:02}.png")
        module = prepared(make_run, tmp_path, **settings)
        for slot in module._slot_inputs("subject", 0, range(20)):
            left, right = slot.loss_mask[..., :3], slot.loss_mask[..., 5:]
            marked, rest = (right, left) if flip and slot.sample.flip else (left, right)
            torch.testing.assert_close(marked, torch.ones_like(marked))
            torch.testing.assert_close(rest, torch.full_like(rest, background))
