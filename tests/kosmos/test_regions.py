"""Regions of images: converted, selected, padded, cropped, described and verified."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.drawing.boxes import boxes_to_mask
from kosmos_dreambooth.kosmos.box_conversion import (
    box_from_mask,
    boxes_from_pixels,
    boxes_to_pixels,
    window,
)
from kosmos_dreambooth.kosmos.crop import crop, expand_to_aspect
from kosmos_dreambooth.kosmos.generate.ground import describe_missing, names_noun
from kosmos_dreambooth.kosmos.generate.regions import join_descriptions
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase
from kosmos_dreambooth.kosmos.select_boxes import pad_box, select_boxes
from kosmos_dreambooth.shared.errors import UserError

sides = st.integers(1, 60)
edges = st.tuples(*[st.floats(0, 1)] * 4)


def box_of(corners: tuple[float, ...]) -> Box:
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    return Box(x0, y0, x1, y1)


@given(st.tuples(*[st.integers(0, 40)] * 4), st.integers(1, 40), st.integers(1, 40))
def test_boxes_in_pixels_survive_the_round_trip(
    corners: tuple[int, ...], width: int, height: int
) -> None:
    left, right = sorted(edge % (width + 1) for edge in corners[:2])
    top, bottom = sorted(edge % (height + 1) for edge in corners[2:])
    if left < right and top < bottom:
        pixels = [left, top, right, bottom]
        (box,) = boxes_from_pixels(pixels, width, height)
        (again,) = boxes_to_pixels([box], width, height)
        assert again == pixels


def test_every_form_of_bbox_of_other_nodes_is_converted() -> None:
    expected = [Box(0.1, 0.2, 0.5, 1.0)]
    for bbox in (
        [10, 10, 50, 50],
        (10.0, 10.0, 50.0, 50.0),
        [[10, 10, 50, 50]],
        [[[10, 10, 50, 50]]],
        torch.tensor([[10, 10, 50, 50]]),
        {"x": 10, "y": 10, "width": 40, "height": 40},
        [{"x": 10, "y": 10, "width": 40, "height": 400, "label": "a dog"}],
    ):
        assert boxes_from_pixels(bbox, 100, 50) == expected
    assert boxes_from_pixels([], 100, 50) == []


@pytest.mark.parametrize("bad", ["a dog", None, [1, 2, 3], [[1, 2, 3, 4, 5]], 7, [["a"]]])
def test_an_invalid_bbox_is_a_user_error(bad: object) -> None:
    with pytest.raises(UserError, match="bbox input"):
        boxes_from_pixels(bad, 10, 10)


@pytest.mark.parametrize(
    "outside", [[10, 0, 12, 5], [-9, -9, 0, 0], [5, 5, 5, 9], [7, 2, 3, 9], [float("nan")] * 4]
)
def test_a_region_outside_the_image_is_a_user_error(outside: list[float]) -> None:
    with pytest.raises(UserError, match="10x10"):
        boxes_from_pixels(outside, 10, 10)


@given(edges, sides, sides)
def test_a_mask_and_its_box_are_equal_in_pixels(
    corners: tuple[float, ...], height: int, width: int
) -> None:
    box = box_of(corners)
    covered = boxes_to_mask([box], height, width)
    if covered.any():
        found = box_from_mask(covered)
        assert torch.equal(boxes_to_mask([found], height, width), covered)


def test_an_empty_mask_is_a_user_error() -> None:
    with pytest.raises(UserError, match="mask is empty"):
        box_from_mask(torch.zeros(4, 4))


A, B, C = Box(0.0, 0.0, 0.5, 0.5), Box(0.1, 0.1, 0.2, 0.2), Box(0.5, 0.5, 1.0, 1.0)
GROUNDED = GroundedText(
    "a red dog, two dogfish",
    (Phrase("a red dog", 0, 9, (A, B)), Phrase("two dogfish", 11, 22, (C,))),
)


def test_boxes_are_selected_by_all_by_phrase_and_by_index() -> None:
    assert select_boxes(GROUNDED, "all") == [A, B, C]
    assert select_boxes(GROUNDED, "phrase", "Red  Dog") == [A, B]
    assert select_boxes(GROUNDED, "phrase", "dog") == [A, B]
    assert select_boxes(GROUNDED, "phrase", "cat") == []
    assert select_boxes(GROUNDED, "index", index=2) == [C]
    assert select_boxes(GROUNDED, "index", index=3) == []
    with pytest.raises(UserError, match="phrase is empty"):
        select_boxes(GROUNDED, "phrase", " ")


@given(edges, st.floats(0, 3))
def test_padding_only_expands_a_box_and_stays_in_the_image(
    corners: tuple[float, ...], share: float
) -> None:
    box = box_of(corners)
    padded = pad_box(box, share)
    assert 0 <= padded.x0 <= box.x0 <= box.x1 <= padded.x1 <= 1
    assert 0 <= padded.y0 <= box.y0 <= box.y1 <= padded.y1 <= 1


@given(edges, sides, sides, st.floats(0.1, 10))
def test_a_crop_covers_its_box_and_has_its_aspect_if_the_image_allows_it(
    corners: tuple[float, ...], width: int, height: int, aspect: float
) -> None:
    box = window(box_of(corners), width, height)
    left, top, right, bottom = expand_to_aspect(box, width, height, aspect)
    assert 0 <= left <= box[0] < box[2] <= right <= width
    assert 0 <= top <= box[1] < box[3] <= bottom <= height
    if right - left < width and bottom - top < height:
        wide, high = right - left, bottom - top
        assert abs(wide - high * aspect) <= max(1, aspect) / 2 + 1e-6


def test_a_crop_is_resized_without_changing_its_aspect() -> None:
    image = torch.rand(40, 60, 3)
    assert torch.equal(crop(image, (10, 5, 30, 15), 0)[0], image[5:15, 10:30])
    larger = crop(image, (10, 5, 30, 15), 50)
    assert larger.shape == (1, 25, 50, 3)
    assert 0 <= larger.min() <= larger.max() <= 1


@pytest.mark.parametrize(
    ("phrase", "description", "named"),
    [
        ("a red dog", "a red spotted dog.", True),
        ("a red boat", "a red dog.", False),
        ("two cats", "a black cat.", True),
        ("a cat", "two cats.", True),
        ("a fire", "a campfire.", True),
        ("the ear of the dog", "a dog.", False),
        ("the dog in the snow", "a dog.", True),
        ("a boat", "", False),
        ("!", "a dog.", False),
    ],
)
def test_a_box_is_verified_by_the_noun_of_the_phrase(
    phrase: str, description: str, named: bool
) -> None:
    assert names_noun(phrase, description) is named


def test_missing_phrases_are_listed_with_their_images() -> None:
    without = GroundedText("a cat", (Phrase("a cat", 0, 5, ()),))
    with_box = GroundedText("a cat", (Phrase("a cat", 0, 5, (A,)),))
    assert describe_missing([with_box]) == ""
    assert describe_missing([without]) == "not found: a cat"
    assert describe_missing([without, with_box, without]) == "not found: a cat (in image 1, 3)"


def test_descriptions_become_phrases_with_their_regions() -> None:
    joined = join_descriptions([A, C], ["a dog.", "a cat"])
    assert joined.caption == "a dog. a cat"
    assert [(joined.caption[p.start : p.end], p.boxes) for p in joined.phrases] == [
        ("a dog", (A,)),
        ("a cat", (C,)),
    ]
