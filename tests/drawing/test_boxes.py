"""Boxes, labels and captions are visible on an image of any size, and masks cover the boxes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.drawing.boxes import boxes_to_mask, draw_boxes, draw_boxes_batch
from kosmos_dreambooth.drawing.labels import place_labels
from kosmos_dreambooth.drawing.style import load_font, text_colour_on
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase
from PIL import ImageColor

DOG = "a dog with a scarf"
SEEN = GroundedText(
    f"An image of {DOG}.", (Phrase(DOG, 12, 12 + len(DOG), (Box(0.25, 0.5, 0.75, 0.9),)),)
)
NOTHING = GroundedText("An image of the sea.")
LONG = GroundedText("word " * 200)


@pytest.mark.parametrize("side", [1, 64, 512, 1300])
def test_a_box_is_drawn_at_its_place(side: int) -> None:
    plain = draw_boxes(torch.full((side, side, 3), 0.5), NOTHING)
    drawn = draw_boxes(torch.full((side, side, 3), 0.5), SEEN)
    height, width = max(side, 512), drawn.shape[1]
    changed = ((drawn - plain)[:height].abs().sum(-1) > 0.2).nonzero()
    (top, left), (bottom, right) = changed.min(0).values, changed.max(0).values
    label = height / 16  # stands over the box
    assert left == pytest.approx(0.25 * width, abs=2)
    assert right == pytest.approx(0.75 * width, abs=2)
    assert bottom == pytest.approx(0.9 * height, abs=2)
    assert 0.5 * height - label <= top < 0.5 * height


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (512, 512), (3, 900), (900, 3)])
def test_small_images_are_enlarged_and_captions_fit(size: tuple[int, int]) -> None:
    drawn = draw_boxes(torch.zeros(*size, 3), SEEN)
    assert max(drawn.shape) >= 512
    assert min(drawn.shape[:2]) >= 32
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_a_batch_has_one_size_whatever_its_captions() -> None:
    images = torch.rand(3, 64, 64, 3)
    drawn = draw_boxes_batch(images, [NOTHING, SEEN, LONG])
    assert drawn.shape[0] == 3
    assert drawn.shape[1] > draw_boxes(images[0], NOTHING).shape[0]


def test_grey_and_rgba_images_become_rgb() -> None:
    for channels in (1, 4):
        assert draw_boxes(torch.ones(64, 64, channels), SEEN).shape[-1] == 3


def test_a_word_wider_than_the_image_is_broken() -> None:
    drawn = draw_boxes(torch.zeros(512, 512, 3), GroundedText("W" * 200))
    assert drawn.shape[0] > draw_boxes(torch.zeros(512, 512, 3), GroundedText("W")).shape[0]


rectangles = st.tuples(*[st.integers(0, 500)] * 4).map(
    lambda edges: (min(edges[:2]), min(edges[2:]), max(edges[:2]), max(edges[2:]))
)
sizes = st.tuples(st.integers(1, 700), st.integers(1, 40))


@given(st.lists(st.tuples(rectangles, sizes), max_size=12))
def test_labels_stay_inside_the_image(wanted: list) -> None:
    spots = place_labels([box for box, _ in wanted], [size for _, size in wanted], (500, 500))
    for (_, (width, height)), spot in zip(wanted, spots, strict=True):
        assert (spot is None) == (width > 500)
        if spot is not None:
            assert 0 <= spot[0] < spot[2] <= 500
            assert 0 <= spot[1] < spot[3] <= 500
            assert (spot[2] - spot[0], spot[3] - spot[1]) == (width, height)


def test_labels_of_boxes_in_one_place_do_not_hide_one_another() -> None:
    box = (100, 100, 400, 400)
    spots = place_labels([box] * 6, [(120, 20)] * 6, (500, 500))
    for k, a in enumerate(spots):
        for b in spots[:k]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_labels_are_readable_on_any_colour(colour: tuple[int, int, int]) -> None:
    def luminance(code: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (value / 255 for value in ImageColor.getrgb(code))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    code = "#{:02x}{:02x}{:02x}".format(*colour)
    dark, light = sorted((luminance(code), luminance(text_colour_on(code))))
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, level AA


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=3),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_a_mask_covers_its_boxes_and_nothing_else(edges: list, height: int, width: int) -> None:
    boxes = [
        Box(min(a, b), min(c, d), max(a, b), max(c, d)) for a, b, c, d in edges if a != b and c != d
    ]
    covered = boxes_to_mask(boxes, height, width)
    for y in range(height):
        for x in range(width):
            touched = any(
                box.x0 * width < x + 1
                and box.x1 * width > x
                and box.y0 * height < y + 1
                and box.y1 * height > y
                for box in boxes
            )
            assert covered[y, x] == touched


def test_a_caption_without_boxes_has_an_empty_mask() -> None:
    assert boxes_to_mask([], 5, 7).shape == (5, 7)
    assert boxes_to_mask([], 5, 7).sum() == 0
    assert math.isclose(boxes_to_mask(SEEN.boxes, 100, 100).mean(), 0.2, abs_tol=1e-6)


@pytest.mark.parametrize("text", ["ein grüner Vogel", "une étoile", "красная собака"])
def test_captions_in_other_languages_are_readable(text: str) -> None:
    font = load_font(20, text)
    if font.getname()[0] == load_font(20).getname()[0]:
        pytest.skip("no other font is installed")
    box = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(char)) != box for char in text if char != " ")
    assert load_font(20, "a green bird").getname() == load_font(20).getname()
