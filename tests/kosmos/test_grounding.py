"""Kosmos-2's text format: as in the published code, and robust against any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.kosmos.grounding import (
    BINS,
    DELIMITER,
    Box,
    GroundedText,
    Phrase,
    box_to_tokens,
    parse,
    serialize,
    tokens_to_box,
)
from transformers.models.kosmos2.processing_kosmos2 import (
    clean_text_and_extract_entities_with_bboxes as published_parse,
)
from transformers.models.kosmos2.processing_kosmos2 import (
    coordinate_to_patch_index as published_encode,
)

bins = st.integers(0, BINS - 1)
words = st.text("abc é犬,", min_size=1, max_size=12).filter(lambda text: text == text.strip())


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    left, right = sorted((draw(bins), draw(bins)))
    top, bottom = sorted((draw(bins), draw(bins)))
    return tokens_to_box(top * BINS + left, bottom * BINS + right)


@st.composite
def captions(draw: st.DrawFn) -> GroundedText:
    caption = draw(words)
    phrases = []
    for text in draw(st.lists(words, max_size=4)):
        start = len(caption) + 1
        end = start + len(text)
        phrases.append(Phrase(text, start, end, tuple(draw(st.lists(boxes(), max_size=3)))))
        caption += f" {text}"
        caption += draw(st.just("") | words.map(lambda text: f" {text}"))
    return GroundedText(caption, tuple(phrases))


def test_every_bin_survives_the_round_trip() -> None:
    for index in range(BINS * BINS):
        box = tokens_to_box(index, index)
        assert box_to_tokens(box) == (index, index)
        assert (round(box.x0 * BINS), round(box.y0 * BINS)) == (index % BINS, index // BINS)
        assert box.x1 - box.x0 == box.y1 - box.y0 == 1 / BINS


@given(boxes())
def test_every_box_survives_the_round_trip(box: Box) -> None:
    assert tokens_to_box(*box_to_tokens(box)) == box


@given(st.tuples(*[st.integers(0, 1000)] * 4))
def test_boxes_are_encoded_as_by_the_published_encoder(corners: tuple[int, ...]) -> None:
    x0, x1, y0, y1 = (corner / 1000 for corner in corners)
    if x0 < x1 and y0 < y1:
        assert box_to_tokens(Box(x0, y0, x1, y1)) == published_encode((x0, y0, x1, y1), BINS)


@given(st.builds(Box, *[st.floats(-9, 9)] * 4))
def test_boxes_without_area_or_outside_the_image_get_bins_too(box: Box) -> None:
    first, last = box_to_tokens(box)
    assert 0 <= first <= last < BINS * BINS
    assert first % BINS <= last % BINS


@given(captions())
def test_parse_inverts_serialize(grounded: GroundedText) -> None:
    assert parse(serialize(grounded)) == grounded


@given(captions())
def test_captions_are_parsed_as_by_the_published_decoder(grounded: GroundedText) -> None:
    raw = f"<grounding>{serialize(grounded)}"
    caption, entities = published_parse(raw)
    parsed = parse(raw)
    assert parsed.caption == caption
    assert [
        (p.text, (p.start, p.end), list(p.boxes)) for p in parsed.phrases if p.boxes
    ] == entities


def test_the_example_of_the_model_card_is_parsed() -> None:
    raw = (
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044>"
        "<patch_index_0863></object> warming himself by<phrase> a fire</phrase><object>"
        "<patch_index_0005><patch_index_0911></object>."
    )
    parsed = parse(raw)
    assert parsed.caption == "An image of a snowman warming himself by a fire."
    assert parsed.phrases == (
        Phrase("a snowman", 12, 21, (Box(0.390625, 0.046875, 0.984375, 0.828125),)),
        Phrase("a fire", 41, 47, (Box(0.171875, 0.015625, 0.484375, 0.890625),)),
    )


TAGS = ["<phrase>", "</phrase>", "<object>", "</object>", DELIMITER, "<grounding>", "</s>"]
LOCATIONS = ["<patch_index_0000>", "<patch_index_1023>", "<patch_index_1024>"]
pieces = st.sampled_from([*TAGS, *LOCATIONS, "<patch_index_", "<", ">", " ", "a"])


@given(st.lists(pieces, max_size=30).map("".join))
def test_any_generated_text_is_parsed(raw: str) -> None:
    parsed = parse(raw)
    end = 0
    for phrase in parsed.phrases:
        assert end <= phrase.start
        assert parsed.caption[phrase.start : phrase.end] == phrase.text
        assert phrase.text or phrase.boxes
        end = phrase.end
    assert all(0 <= b.x0 < b.x1 <= 1 and 0 <= b.y0 < b.y1 <= 1 for b in parsed.boxes)
    assert "patch_index_0" not in parsed.caption


@pytest.mark.parametrize(
    ("raw", "caption", "boxes_per_phrase"),
    [
        ("", "", []),
        ("An image of the sea.", "An image of the sea.", []),
        ("<phrase> a dog</phrase> runs", "a dog runs", [0]),
        ("<phrase> a dog</phrase><object><patch_index_0044></object> runs", "a dog runs", [0]),
        ("<phrase> a dog<object><patch_index_0044><patch_index_0863>", "a dog", [1]),
        ("<object><patch_index_0044><patch_index_0863></object>", "", [1]),
        ("<object> <patch_index_0044> <patch_index_0863> </object> end", "end", [1]),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2", []),
    ],
)
def test_incomplete_text_keeps_what_is_complete(
    raw: str, caption: str, boxes_per_phrase: list[int]
) -> None:
    parsed = parse(raw)
    assert parsed.caption == caption
    assert [len(phrase.boxes) for phrase in parsed.phrases] == boxes_per_phrase


def test_corners_in_the_wrong_order_are_sorted() -> None:
    assert tokens_to_box(863, 44) == tokens_to_box(44, 863)


def test_overlapping_phrases_raise_value_error() -> None:
    overlapping = GroundedText(
        "a red dog", (Phrase("a red", 0, 5, ()), Phrase("red dog", 2, 9, ()))
    )
    with pytest.raises(ValueError, match="red dog"):
        serialize(overlapping)
