"""A subject: captions with the token, files, fingerprint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.data.subject import (
    Subject,
    caption_from_templates,
    caption_with_token,
    read_images,
    subject_fingerprint,
    write_class_images,
    write_subject,
)


@pytest.mark.parametrize(
    ("caption", "phrase", "expected"),
    [
        (
            "a teal dog with a scarf in the meadow",
            "a teal dog with a scarf",
            "a sks dog in the meadow",
        ),
        ("An image of a teal dog in the meadow.", "a teal dog", "a sks dog in the meadow"),
        ("An image of a teal spotted Dog at night.", None, "a sks dog at night"),
        ("A tree and a teal dog by the sea", "a teal dog", "A tree and a sks dog by the sea"),
        ("dog", None, "a sks dog"),
        ("a red house in the snow", "a red house", "a sks dog"),
        ("a dogwood in the snow", None, "a sks dog"),
        ("", None, "a sks dog"),
        ("my own sks dog, sitting", None, "my own sks dog, sitting"),
    ],
)
def test_the_token_takes_the_place_of_the_description(
    caption: str, phrase: str | None, expected: str
) -> None:
    start = caption.index(phrase) if phrase else 0
    spans = [(start, start + len(phrase))] if phrase else []
    assert caption_with_token(caption, "sks", "dog", spans) == expected


def test_a_class_of_two_words_and_a_token_of_signs_are_taken_literally() -> None:
    assert (
        caption_with_token("the old teddy bear here", "x+", "teddy bear") == "a x+ teddy bear here"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": (), "captions": ()}, "no images"),
        ({"captions": ("one",)}, "3 images but 1 captions"),
        ({"token": ""}, "token"),
        ({"token": "s k"}, "without spaces"),
        ({"class_name": " "}, "class_name is empty"),
    ],
)
def test_an_invalid_subject_is_a_user_error(subject: Subject, change: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(subject, **change)


def test_images_and_captions_are_read_as_written(subject: Subject, tmp_path: Path) -> None:
    write_subject(tmp_path, subject)
    images, captions = read_images(tmp_path)
    assert tuple(captions) == subject.captions
    for written, read in zip(subject.images, images, strict=True):
        np.testing.assert_array_equal(written, read)


def test_class_images_in_a_run_outlive_their_cache(
    class_images: tuple[Path, ...], tmp_path: Path
) -> None:
    cached = tmp_path / "cached.png"
    cached.write_bytes(class_images[0].read_bytes())
    write_class_images(tmp_path / "run", [cached])
    cached.unlink()
    assert len(read_images(tmp_path / "run")[0]) == 1


def test_an_unreadable_image_is_named(subject: Subject, tmp_path: Path) -> None:
    write_subject(tmp_path, subject)
    (tmp_path / "01.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"01\.png"):
        read_images(tmp_path)


def test_other_pixels_captions_or_class_images_are_other_data(
    subject: Subject, class_images: tuple[Path, ...]
) -> None:
    brighter = tuple(np.clip(p, 1, 255).astype(np.uint8) for p in subject.images)
    variants = [
        subject_fingerprint(subject, class_images),
        subject_fingerprint(subject, class_images[1:]),
        subject_fingerprint(replace(subject, images=brighter), class_images),
        subject_fingerprint(replace(subject, captions=subject.captions[::-1]), class_images),
    ]
    assert len(set(variants)) == len(variants)
    assert subject_fingerprint(replace(subject), class_images) == variants[0]


def test_a_template_names_the_subject() -> None:
    assert caption_from_templates(" a photo of a {subject}\n\n{subject}!", "sks", "dog") == (
        "a photo of a sks dog\nsks dog!"
    )
    assert caption_from_templates("", "sks", "dog") == "a sks dog"
    with pytest.raises(UserError, match=r"write \{subject\} where it is"):
        caption_from_templates("a {subject}\na photo", "sks", "dog")
