"""Regions of images: converted, selected, padded, cropped, described and verified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.drawing.boxes import boxes_to_mask
from kosmos_dreambooth.kosmos.box_conversion import (
    bounding_boxes,
    box_from_mask,
    boxes_to_pixels,
    read_boxes,
    window,
)
from kosmos_dreambooth.kosmos.crop import crop, expand_to_aspect
from kosmos_dreambooth.kosmos.generate.ground import describe_missing, names_noun
from kosmos_dreambooth.kosmos.generate.regions import join_descriptions
from kosmos_dreambooth.kosmos.grounding import (
    Box,
    GroundedText,
    LabeledBox,
    Phrase,
    parse,
    serialize,
)
from kosmos_dreambooth.kosmos.label_phrases import ground_labels
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
        [[labeled]] = read_boxes([pixels], [(width, height)])
        (again,) = boxes_to_pixels([labeled.box], width, height)
        assert again == pixels


def test_every_form_of_bbox_of_other_nodes_is_read() -> None:
    box = Box(0.1, 0.2, 0.5, 1.0)
    core = {"x": 10, "y": 10, "width": 40, "height": 400}
    for bbox, label, score in (
        ([10, 10, 50, 50], "", 1.0),
        ((10.0, 10.0, 50.0, 50.0), "", 1.0),
        ([10, 10, 50, 50, 0.25], "", 0.25),
        ([[10, 10, 50, 50]], "", 1.0),
        ([[[10, 10, 50, 50]]], "", 1.0),
        (torch.tensor([[10, 10, 50, 50]]), "", 1.0),
        (torch.tensor([[[10, 10, 50, 50, 0.5]]]), "", 0.5),
        (np.array([10, 10, 50, 50]), "", 1.0),
        ([np.array([10, 10, 50, 50], np.float32)], "", 1.0),
        ([np.float32(10), torch.tensor(10), 50, 50], "", 1.0),
        (core, "", 1.0),
        ([core | {"label": "a dog", "score": 0.5}], "a dog", 0.5),
        ([[core | {"label": None, "score": np.float32(0.5)}]], "", 0.5),
        ((core | {"label": np.str_("a dog"), "score": None},), "a dog", 1.0),
        ({key: torch.tensor([value]) for key, value in core.items()}, "", 1.0),
        (np.array([[torch.tensor(10), 10, 50, 50]], object), "", 1.0),
        ({"startX": 50, "startY": 60, "endX": 10, "endY": 10}, "", 1.0),
        ([{"startX": 10, "startY": 10, "endX": 50.0, "endY": 50.0}], "", 1.0),
    ):
        assert read_boxes([bbox], [(100, 50)]) == [[LabeledBox(box, label, score)]]
    for empty in ([], (), [[]], [[], []], np.zeros((0, 4)), torch.zeros(2, 0, 5)):
        assert read_boxes([empty], [(100, 50)] * 2) == [[], []]


boxes_in_pixels = st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 5)] * 2)


@given(st.lists(st.lists(boxes_in_pixels, max_size=3), min_size=1, max_size=4), st.data())
def test_boxes_of_each_image_stay_with_it(
    corners: list[list[tuple[int, int, int, int]]], data: st.DataObject
) -> None:
    """One list for each image, in one value as in core, or in one value each as from our nodes."""

    def written(x: int, y: int, width: int, height: int) -> object:
        forms = [
            {"x": x, "y": y, "width": width, "height": height},
            {"startX": x, "startY": y, "endX": x + width, "endY": y + height},
            [x, y, x + width, y + height],
            np.array([x, y, x + width, y + height, 1.0]),
        ]
        return data.draw(st.sampled_from(forms))

    per_image = [[written(*box) for box in boxes] for boxes in corners]
    expected = [
        [Box(x / 10, y / 10, (x + w) / 10, (y + h) / 10) for x, y, w, h in boxes]
        for boxes in corners
    ]
    sizes = [(10, 10)] * len(corners)
    for values in ([per_image], per_image):
        read = read_boxes(values, sizes)
        assert [[labeled.box for labeled in boxes] for boxes in read] == expected
        assert [
            [(d["x"], d["y"], d["width"], d["height"]) for d in boxes]
            for boxes in bounding_boxes(read, sizes)
        ] == corners


def test_one_list_of_boxes_is_for_every_image() -> None:
    one, other = [0, 0, 5, 10], [5, 0, 10, 10]
    boxes = [LabeledBox(Box(0, 0, 0.5, 1)), LabeledBox(Box(0.5, 0, 1, 1))]
    for value in ([one, other], [[one, other]], np.array([one, other])):
        assert read_boxes([value], [(10, 10)] * 3) == [boxes] * 3


@pytest.mark.parametrize("count", [1, 2, 4])
def test_boxes_of_another_number_of_images_are_a_user_error(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} images but 3 entries in the bbox input"):
        read_boxes([[[[0, 0, 1, 1]], [], [[1, 1, 2, 2]]]], [(10, 10)] * count)


@pytest.mark.parametrize(
    "bad",
    [
        *("a dog", None, 7, [["a"]], {}, {"x": 1}, {"startX": 1}),
        *([1, 2, 3], [[1, 2, 3, 4, 5, 6]], [10**400] * 4),
        {"x": "left", "y": 1, "width": 1, "height": 1},
        {"boxes": [[1, 2, 3, 4]] * 1000, "labels": ["a dog"] * 1000},
        *({"x": [1, 2], "y": 1, "width": 1, "height": 1}, [[[1, 2, 3, 4]], None]),
    ],
)
def test_an_invalid_bbox_is_a_user_error(bad: object) -> None:
    with pytest.raises(UserError, match="bbox input") as caught:
        read_boxes([bad], [(10, 10)])
    assert len(str(caught.value)) < 300


FRACTIONS = [0.1, 0.2, 0.5, 0.9]


@pytest.mark.parametrize(
    "value",
    [FRACTIONS, np.array([FRACTIONS]), {"x": 0.1, "y": 0.1, "width": 0.5, "height": 0.9}],
)
def test_fractions_of_the_image_are_not_read_as_its_first_pixel(value: object) -> None:
    with pytest.raises(UserError, match="width and height, 40 and 30"):
        read_boxes([value], [(40, 30)])
    assert read_boxes([[[0, 0, 20, 30], [0, 0, 1, 1]]], [(40, 30)]) == [
        [LabeledBox(Box(0, 0, 0.5, 1)), LabeledBox(Box(0, 0, 1 / 40, 1 / 30))]
    ]


OUTSIDE = [[10, 0, 12, 5], [-9, -9, 0, 0], [5, 5, 5, 9], [7, 2, 3, 9], [float("nan")] * 4]


@pytest.mark.parametrize("outside", OUTSIDE)
def test_a_region_outside_the_image_is_a_user_error(outside: list[float]) -> None:
    with pytest.raises(UserError, match="10x10"):
        read_boxes([outside], [(10, 10)])


@pytest.mark.parametrize("outside", OUTSIDE)
def test_a_region_outside_the_image_is_left_out_of_several(
    outside: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert read_boxes([[[0, 0, 10, 10]], [outside]], [(10, 10)] * 2) == [
        [LabeledBox(Box(0, 0, 1, 1))],
        [],
    ]
    assert "Image 2: the region" in caplog.text


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
    boxes = GROUNDED.labeled_boxes

    def selected(*select: Any, **options: Any) -> list[Box]:
        return [labeled.box for labeled in select_boxes(boxes, *select, **options)]

    assert selected("all") == [A, B, C]
    assert selected("phrase", "Red  Dog") == [A, B]
    assert selected("phrase", "dog") == [A, B]
    assert selected("phrase", "cat") == []
    assert selected("index", index=2) == [C]
    assert selected("index", index=3) == []
    with pytest.raises(UserError, match="phrase is empty"):
        selected("phrase", " ")


@given(edges, st.floats(0, 3), sides, sides)
def test_padding_only_expands_a_box_and_stays_in_the_image(
    corners: tuple[float, ...], share: float, width: int, height: int
) -> None:
    box = box_of(corners)
    padded = pad_box(box, share, width, height)
    assert 0 <= padded.x0 <= box.x0 <= box.x1 <= padded.x1 <= 1
    assert 0 <= padded.y0 <= box.y0 <= box.y1 <= padded.y1 <= 1


def test_padding_is_a_share_of_the_longer_side_in_pixels() -> None:
    box = Box(500 / 1920, 500 / 1080, 600 / 1920, 600 / 1080)
    assert window(pad_box(box, 0.5, 1920, 1080), 1920, 1080) == (450, 450, 650, 650)
    wide = Box(500 / 1920, 500 / 1080, 700 / 1920, 600 / 1080)
    assert window(pad_box(wide, 0.5, 1920, 1080), 1920, 1080) == (400, 400, 800, 700)


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


def labels(caption: str, *names: str) -> list[tuple[str, int]]:
    """Each phrase's text and its number of boxes, after labels were looked up in a caption."""
    grounded = ground_labels(caption, [LabeledBox(A, name) for name in names])
    assert all(grounded.caption[p.start : p.end] == p.text for p in grounded.phrases)
    return [(phrase.text, len(phrase.boxes)) for phrase in grounded.phrases]


def test_labels_of_boxes_become_phrases_of_a_text() -> None:
    caption = "A red dog and two Cats near a dog house"
    assert labels(caption, "cats", "red dog") == [("red dog", 1), ("Cats", 1)]
    assert labels(caption, "dog", "dog", "a red dog") == [("A red dog", 1), ("dog", 2)]
    assert labels("the red dog", "dog", "a red dog") == [("red dog", 2)]
    assert labels("a dog", "zebra", "dog", "") == [("dog", 1), ("", 2)]
    assert labels("a dogfish (odd)", "dog", "(odd)") == [("(odd)", 1), ("", 1)]
    assert labels(" ", "cat", "dog", "cat") == [("cat", 2), ("dog", 1)]
    assert labels("a dog") == []


@given(
    st.text("ab. ", max_size=12),
    st.lists(st.tuples(st.text("ab. ", max_size=4), edges), max_size=5),
)
def test_no_box_is_lost_when_labels_are_looked_up(
    caption: str, named: list[tuple[str, tuple[float, ...]]]
) -> None:
    boxes = [LabeledBox(box_of(corners), label.strip()) for label, corners in named]
    grounded = ground_labels(caption, boxes)
    assert sorted(grounded.boxes) == sorted(labeled.box for labeled in boxes)
    assert parse(serialize(grounded)).caption == grounded.caption
    ends = [0, *(phrase.end for phrase in grounded.phrases)]
    assert all(p.start >= end for p, end in zip(grounded.phrases, ends, strict=False))
