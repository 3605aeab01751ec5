"""Many prompts on one picture: one encoding, one reading of what they share, the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from kosmos_dreambooth.kosmos.generate.completion import Completion, generate
from kosmos_dreambooth.kosmos.generate.encoded_images import EncodedImages
from kosmos_dreambooth.kosmos.grounding import GroundedText, parse
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.prompt import decode_text, tokenize
from kosmos_dreambooth.shared.batching import BatchOptions

Published = Callable[..., list[list[GroundedText]]]

PROMPTS = [
    "An image of",
    "<phrase> It</phrase><object><patch_index_0100><patch_index_0700></object> is",
    "<phrase> a dog</phrase>",
    "A",
    "This is one large picture of the house and the two cats in the middle and there is",
]
"""Of different lengths."""


def texts(kosmos: Kosmos, images: torch.Tensor, **settings: int) -> list[list[GroundedText]]:
    prompts = [tokenize(kosmos, text, 24) for text in PROMPTS]
    replies = generate(
        kosmos,
        EncodedImages(kosmos, images),
        [prompts] * len(images),
        max_new_tokens=24,
        batching=BatchOptions(**settings),
    )
    return [
        [
            parse(decode_text(kosmos, prompt, one.ids))
            for prompt, one in zip(prompts, each, strict=True)
        ]
        for each in replies
    ]


@contextmanager
def looks(kosmos: Kosmos) -> Iterator[list[int]]:
    """Listen for the pictures that the vision tower is shown at a time."""
    shown: list[int] = []
    hook = kosmos.model.vision_model.register_forward_pre_hook(
        lambda _, __, kwargs: shown.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        yield shown
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [0, 1, 3, 4, 100])
def test_answers_equal_those_to_one_prompt_at_a_time(
    tiny: Kosmos, four_pictures: torch.Tensor, published: Published, batch_size: int
) -> None:
    expected = published(tiny, four_pictures, PROMPTS, max_new_tokens=24)
    assert texts(tiny, four_pictures, batch_size=batch_size) == expected


@pytest.mark.parametrize("batch_size", [1, 7, 25])
def test_the_sandbox_answers_the_same_too(
    sandbox_model: Kosmos, scenes: torch.Tensor, published: Published, batch_size: int
) -> None:
    expected = published(sandbox_model, scenes, PROMPTS, max_new_tokens=24)
    assert texts(sandbox_model, scenes, batch_size=batch_size) == expected


@pytest.mark.parametrize(
    ("batch_size", "at_a_time"),
    [(20, [4]), (5, [1, 1, 1, 1]), (3, [1, 1, 1, 1]), (7, [2, 1, 1]), (1, [1, 1, 1, 1])],
)
def test_each_picture_is_looked_at_once(
    tiny: Kosmos, four_pictures: torch.Tensor, batch_size: int, at_a_time: list[int]
) -> None:
    with looks(tiny) as shown:
        texts(tiny, four_pictures, batch_size=batch_size)
    assert shown == at_a_time


def test_prompts_of_like_lengths_are_written_together(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    read: list[int] = []
    hook = tiny.model.text_model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        texts(tiny, four_pictures[:1], batch_size=2)
    finally:
        hook.remove()
    lengths = sorted(
        len(p.ids) - p.text_start for p in (tokenize(tiny, text, 24) for text in PROMPTS)
    )
    assert [length for length in read if length > 1] == [lengths[1], lengths[3], lengths[4]]


def test_pictures_are_not_looked_at_again_for_later_prompts(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    pictures, prompt = EncodedImages(tiny, four_pictures), tokenize(tiny, "A", 8)
    with looks(tiny) as shown:
        first, again = (
            generate(
                tiny,
                pictures,
                [[prompt]] * 4,
                max_new_tokens=8,
                batching=BatchOptions(batch_size=3),
            )
            for _ in range(2)
        )
    assert shown == [3, 1]
    assert first == again


def test_pictures_may_have_prompts_of_their_own_or_none(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    one, two = (tokenize(tiny, text, 8) for text in PROMPTS[:2])
    asked = [[one], [], [two, one], []]
    replies = generate(tiny, EncodedImages(tiny, four_pictures), asked, max_new_tokens=8)
    assert [len(each) for each in replies] == [1, 0, 2, 0]
    alone = generate(tiny, EncodedImages(tiny, four_pictures[2:3]), [[one]], max_new_tokens=8)
    assert replies[2][1].ids == alone[0][0].ids


def only(kosmos: Kosmos, image: torch.Tensor, text: str, **settings: int) -> Completion:
    prompt = tokenize(kosmos, text, 64)
    return generate(
        kosmos, EncodedImages(kosmos, image), [[prompt]], max_new_tokens=64, **settings
    )[0][0]


def test_a_reply_ends_where_it_is_told_to(tiny: Kosmos, four_pictures: torch.Tensor) -> None:
    end = tiny.processor.tokenizer.convert_tokens_to_ids("</object>")
    whole = only(tiny, four_pictures[:1], "An image of")
    cut = only(tiny, four_pictures[:1], "An image of", stop_token=end)
    assert cut.ids == whole.ids[: whole.ids.index(end) + 1]
    assert cut.finished
    assert whole.finished


def test_probabilities_tell_how_sure_the_model_was(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    learned = only(tiny, four_pictures[:1], "An image of")
    unheard = only(tiny, four_pictures[:1], "Question: what is above? Answer:")
    assert len(learned.probabilities) == len(learned.ids)
    assert min(learned.probabilities) > 0.8
    assert 0 < min(unheard.probabilities) < 0.8


def test_a_models_ban_on_repetition_is_obeyed(
    tiny: Kosmos, four_pictures: torch.Tensor, published: Published
) -> None:
    settings = tiny.model.text_model.generation_config
    free = texts(tiny, four_pictures)
    settings.no_repeat_ngram_size = 2
    try:
        assert texts(tiny, four_pictures) != free
        expected = published(tiny, four_pictures, PROMPTS, max_new_tokens=24)
        assert texts(tiny, four_pictures) == expected
    finally:
        settings.no_repeat_ngram_size = None
