"""The trigger word in captions that any captioner wrote."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase
from kosmos_dreambooth.training.data.trigger_words import (
    TRIGGER_RULES,
    ground_trigger_word,
    has_word,
    with_trigger_word,
)

BOX = Box(0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("caption", "class_name", "replaced", "before", "in_front"),
    [
        ("a dog", "dog", "a sks", "a sks dog", "sks, a dog"),
        ("Two dogs.", "dog", "Two sks.", "Two sks dogs.", "sks, Two dogs."),
        ("A DOG runs", "dog", "A sks runs", "A sks DOG runs", "sks, A DOG runs"),
        ("dog and dog", "dog", "sks and sks", "sks dog and sks dog", "sks, dog and dog"),
        ("a hotdog, a dog-leg", "dog", "sks", "sks dog", "sks"),
        ("a dog's bowl", "dog", "a sks's bowl", "a sks dog's bowl", "sks, a dog's bowl"),
        ("one fox, two foxes", "fox", "one sks, two sks", "one sks fox, two sks foxes", "sks"),
        ("puppies at play", "puppy", "sks at play", "sks puppies at play", "sks"),
        (
            "A Golden  Retriever.",
            "golden retriever",
            "A sks.",
            "A sks Golden  Retriever.",
            "sks, A Golden  Retriever.",
        ),
        ("一只狗在草地上", "狗", "一只 sks 在草地上", "一只 sks 狗在草地上", "sks, 一只狗在草地上"),
        ("Щенок и щенок", "щенок", "sks и sks", "sks Щенок и sks щенок", "sks"),
        ("a sks dog, a dog", "dog", *["a sks dog, a dog"] * 3),
        ("一只sks狗", "狗", *["一只sks狗"] * 3),
        ("", "dog", *["a sks dog"] * 3),
        (" \n", "dog", *["a sks dog"] * 3),
        ("a dog\n\na cat", "dog", "a sks\n\nsks, a cat", "a sks dog\n\nsks dog, a cat", "sks"),
    ],
)
def test_the_token_is_put_where_the_rule_says(
    caption: str, class_name: str, replaced: str, before: str, in_front: str
) -> None:
    results = [with_trigger_word(caption, "sks", class_name, rule) for rule in TRIGGER_RULES]
    for result, expected in zip(results, (replaced, before, in_front), strict=True):
        starts = expected in ("sks", "sks dog")  # short for: in front of the caption
        assert result == (f"{expected}, {caption}" if starts else expected) or (
            "\n" in caption and result.startswith(expected)
        )


TEXT = st.lists(
    st.sampled_from(["dog", "Dogs", "hotdog", "dogma", "a", " ", "\n", "-", ".", "é", "狗", "ß"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=8,
).map("".join)
FEW = settings(max_examples=60)
NOUNS = st.sampled_from(["dog", "fire truck", "puppy", "狗", "Straße", "c++", "bus"])


@FEW
@given(TEXT, NOUNS, st.sampled_from(TRIGGER_RULES))
def test_every_line_has_the_token_once_more_changes_nothing(
    caption: str, class_name: str, rule: str
) -> None:
    result = with_trigger_word(caption, "sks", class_name, rule)
    lines = [line for line in re.split(r"[\n\r]", result) if line.strip()]
    assert lines
    assert all(has_word(line, "sks") for line in lines)
    assert with_trigger_word(result, "sks", class_name, rule) == result
    if rule != "replace class" and caption.strip():
        kept = iter(result)  # all letters of the caption are still there, in order
        assert all(letter in kept for letter in caption)


@FEW
@given(TEXT, NOUNS, st.sampled_from(TRIGGER_RULES), st.data())
def test_phrases_stay_at_their_words(
    caption: str, class_name: str, rule: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(caption)))
    end = data.draw(st.integers(start, len(caption)))
    phrase = Phrase(caption[start:end], start, end, (BOX,))
    text = ground_trigger_word(GroundedText(caption, (phrase,)), "sks", class_name, rule)
    assert text.caption == with_trigger_word(caption, "sks", class_name, rule)
    [moved] = text.phrases
    assert moved.text == text.caption[moved.start : moved.end] == moved.text.strip()
    assert moved.boxes == (BOX,)
    if rule == "in front" and caption.strip() and not {"\n", "\r"} & set(phrase.text):
        assert phrase.text.strip() in moved.text
