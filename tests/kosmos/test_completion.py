"""Completions equal those of transformers, with images encoded and prefilled once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from kosmos_dreambooth.kosmos.generate.completion import Completion, generate
from kosmos_dreambooth.kosmos.generate.encoded_images import EncodedImages
from kosmos_dreambooth.kosmos.grounding import GroundedText, parse
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.preprocess import preprocess
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
    completions = generate(
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
        for each in completions
    ]


@contextmanager
def encoded_batches(kosmos: Kosmos) -> Iterator[list[int]]:
    """Record the number of images in each batch of the vision tower."""
    batches: list[int] = []
    hook = kosmos.model.vision_model.register_forward_pre_hook(
        lambda _, __, kwargs: batches.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        yield batches
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [0, 1, 3, 4, 100])
def test_completions_equal_those_of_transformers(
    tiny: Kosmos, four_images: torch.Tensor, published: Published, batch_size: int
) -> None:
    expected = published(tiny, four_images, PROMPTS, max_new_tokens=24)
    assert texts(tiny, four_images, batch_size=batch_size) == expected


@pytest.mark.parametrize("batch_size", [1, 7, 25])
def test_completions_of_the_sandbox_equal_those_of_transformers(
    sandbox_model: Kosmos, scenes: torch.Tensor, published: Published, batch_size: int
) -> None:
    expected = published(sandbox_model, scenes, PROMPTS, max_new_tokens=24)
    assert texts(sandbox_model, scenes, batch_size=batch_size) == expected


@pytest.mark.parametrize(
    ("batch_size", "at_a_time"),
    [(20, [4]), (5, [1, 1, 1, 1]), (3, [1, 1, 1, 1]), (7, [2, 1, 1]), (1, [1, 1, 1, 1])],
)
def test_each_image_is_encoded_once(
    tiny: Kosmos, four_images: torch.Tensor, batch_size: int, at_a_time: list[int]
) -> None:
    with encoded_batches(tiny) as batches:
        texts(tiny, four_images, batch_size=batch_size)
    assert batches == at_a_time


def test_prompts_of_similar_lengths_share_a_batch(tiny: Kosmos, four_images: torch.Tensor) -> None:
    read: list[int] = []
    hook = tiny.model.text_model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        texts(tiny, four_images[:1], batch_size=2)
    finally:
        hook.remove()
    lengths = sorted(
        len(p.ids) - p.text_start for p in (tokenize(tiny, text, 24) for text in PROMPTS)
    )
    assert [length for length in read if length > 1] == [lengths[1], lengths[3], lengths[4]]


def test_images_are_not_encoded_again_for_later_prompts(
    tiny: Kosmos, four_images: torch.Tensor
) -> None:
    encoded, prompt = EncodedImages(tiny, four_images), tokenize(tiny, "A", 8)
    with encoded_batches(tiny) as batches:
        first, again = (
            generate(
                tiny,
                encoded,
                [[prompt]] * 4,
                max_new_tokens=8,
                batching=BatchOptions(batch_size=3),
            )
            for _ in range(2)
        )
    assert batches == [3, 1]
    assert first == again


def test_images_may_have_different_prompts_or_none(tiny: Kosmos, four_images: torch.Tensor) -> None:
    one, two = (tokenize(tiny, text, 8) for text in PROMPTS[:2])
    prompts = [[one], [], [two, one], []]
    completions = generate(tiny, EncodedImages(tiny, four_images), prompts, max_new_tokens=8)
    assert [len(each) for each in completions] == [1, 0, 2, 0]
    alone = generate(tiny, EncodedImages(tiny, four_images[2:3]), [[one]], max_new_tokens=8)
    assert completions[2][1].ids == alone[0][0].ids


def complete(kosmos: Kosmos, image: torch.Tensor, text: str, **settings: int) -> Completion:
    prompt = tokenize(kosmos, text, 64)
    return generate(
        kosmos, EncodedImages(kosmos, image), [[prompt]], max_new_tokens=64, **settings
    )[0][0]


def test_a_completion_ends_after_the_stop_token(tiny: Kosmos, four_images: torch.Tensor) -> None:
    end = tiny.processor.tokenizer.convert_tokens_to_ids("</object>")
    whole = complete(tiny, four_images[:1], "An image of")
    cut = complete(tiny, four_images[:1], "An image of", stop_token=end)
    assert cut.ids == whole.ids[: whole.ids.index(end) + 1]
    assert cut.finished
    assert whole.finished


def test_probabilities_are_those_of_the_tokens(tiny: Kosmos, four_images: torch.Tensor) -> None:
    text = "Question: what is above? Answer:"
    completion = complete(tiny, four_images[:1], text)
    prompt = tokenize(tiny, text, 64)
    ids = torch.tensor([[*prompt.ids, *completion.ids]])
    slots = torch.zeros_like(ids)
    slots[:, slice(*prompt.slots)] = 1
    with torch.no_grad():
        logits = tiny.model(
            pixel_values=preprocess(tiny, four_images[:1]),
            input_ids=ids,
            image_embeds_position_mask=slots,
        ).logits[0, len(prompt.ids) - 1 : -1]
    expected = logits.softmax(-1)[torch.arange(len(completion.ids)), list(completion.ids)]
    torch.testing.assert_close(torch.tensor(completion.probabilities), expected)


def test_no_repeat_ngram_size_is_applied(
    tiny: Kosmos, four_images: torch.Tensor, published: Published
) -> None:
    settings = tiny.model.text_model.generation_config
    free = texts(tiny, four_images)
    settings.no_repeat_ngram_size = 2
    try:
        assert texts(tiny, four_images) != free
        expected = published(tiny, four_images, PROMPTS, max_new_tokens=24)
        assert texts(tiny, four_images) == expected
    finally:
        settings.no_repeat_ngram_size = None
