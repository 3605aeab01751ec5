"""Captions do not depend on batches, and batches fit into memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from kosmos_dreambooth.kosmos.generate import batch_size as batch_sizes
from kosmos_dreambooth.kosmos.generate.batch_size import (
    bytes_per_sequence,
    choose_batch_size,
    cost_share,
    measure_cost_share,
)
from kosmos_dreambooth.kosmos.generate.caption import BRIEF, DETAILED, caption
from kosmos_dreambooth.kosmos.generate.decoding import Decoding
from kosmos_dreambooth.kosmos.grounding import GroundedText, parse
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.prompt import tokenize
from kosmos_dreambooth.shared.batching import BatchOptions
from kosmos_dreambooth.shared.errors import UserError

Published = Callable[..., list[list[GroundedText]]]


@contextmanager
def memory_for(count: int, kosmos: Kosmos) -> Iterator[None]:
    """Make the vision tower run out of memory for more than `count` images."""

    def allocate(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if len(kwargs["pixel_values"]) > count:
            torch.empty(1 << 55, dtype=torch.uint8)

    hook = kosmos.model.vision_model.register_forward_pre_hook(allocate, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.rand(7, 30, 40, 3, generator=torch.Generator().manual_seed(0))


def test_each_image_gets_its_caption_and_boxes(
    tiny: Kosmos, four_images: torch.Tensor, training_texts: list[str]
) -> None:
    assert caption(tiny, four_images) == [parse(f"An image of{text}") for text in training_texts]


def test_captions_equal_those_of_transformers(
    tiny: Kosmos, four_images: torch.Tensor, published: Published
) -> None:
    expected = published(tiny, four_images, [BRIEF], max_new_tokens=64)
    assert [[grounded] for grounded in caption(tiny, four_images)] == expected


@pytest.mark.parametrize("batch_size", [0, 2, 3, 7, 100])
def test_captions_do_not_depend_on_the_batch_size(
    tiny: Kosmos, four_images: torch.Tensor, noise: torch.Tensor, batch_size: int
) -> None:
    for images in (four_images, noise):
        one_by_one = [
            caption(tiny, image[None], batching=BatchOptions(batch_size=1))[0] for image in images
        ]
        assert caption(tiny, images, batching=BatchOptions(batch_size=batch_size)) == one_by_one


def test_images_are_encoded_once_and_tokens_are_cached(
    tiny: Kosmos, four_images: torch.Tensor
) -> None:
    encoded, decoded = [], []
    hooks = [
        tiny.model.vision_model.model.encoder.register_forward_hook(
            lambda _, __, output: encoded.append(len(output[0]))
        ),
        tiny.model.text_model.model.layer_norm.register_forward_hook(
            lambda _, __, output: decoded.append(tuple(output.shape[:2]))
        ),
    ]
    try:
        caption(tiny, four_images, batching=BatchOptions(batch_size=4))
    finally:
        for hook in hooks:
            hook.remove()
    assert encoded == [4]
    rows, tokens = zip(*decoded, strict=True)
    assert min(tokens[:2]) > 1  # the image slots, then the prompt
    assert set(tokens[2:]) == {1}
    assert list(rows) == sorted(rows, reverse=True)  # a row that has ended is dropped
    assert rows[1] == 4
    assert rows[-1] < 4


def test_a_beginning_is_part_of_the_caption_and_a_request_is_not(
    tiny: Kosmos, four_images: torch.Tensor
) -> None:
    begun = caption(tiny, four_images[:1], "A photo of")[0].caption
    answered = caption(tiny, four_images[:1], DETAILED)[0].caption
    assert begun.startswith("A photo of ")
    assert "Describe" not in answered


def test_batches_are_halved_when_memory_runs_out(tiny: Kosmos, noise: torch.Tensor) -> None:
    expected = caption(tiny, noise)
    done: list[tuple[int, int]] = []
    with memory_for(2, tiny):
        captions = caption(
            tiny,
            noise,
            batching=BatchOptions(batch_size=7, on_batch=lambda *counts: done.append(counts)),
        )
    assert captions == expected
    assert done == [(1, 7), (2, 7), (3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]


def test_sampling_does_not_depend_on_the_batch_size(tiny: Kosmos, noise: torch.Tensor) -> None:
    sampling = Decoding(temperature=1.5, top_p=0.95, seed=3)
    one_by_one, together = (
        caption(tiny, noise, decoding=sampling, batching=BatchOptions(batch_size=size))
        for size in (1, 7)
    )
    assert together == one_by_one
    # With a nucleus of a single token, sampling is greedy.
    single = Decoding(temperature=1.0, top_p=1e-6)
    assert caption(tiny, noise, decoding=single) == caption(tiny, noise)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_beam_search_equals_that_of_transformers(
    tiny: Kosmos, noise: torch.Tensor, published: Published, batch_size: int
) -> None:
    captions = caption(
        tiny, noise, decoding=Decoding(beams=3), batching=BatchOptions(batch_size=batch_size)
    )
    expected = published(tiny, noise, [BRIEF], num_beams=3, max_new_tokens=64)
    assert [[text] for text in captions] == expected


def test_an_image_that_does_not_fit_into_memory_is_a_user_error(
    tiny: Kosmos, noise: torch.Tensor
) -> None:
    with memory_for(0, tiny), pytest.raises(UserError, match="fp16"):
        caption(tiny, noise)


def test_an_exception_in_on_token_ends_the_work(tiny: Kosmos, noise: torch.Tensor) -> None:
    calls = []

    def on_token() -> None:
        calls.append(True)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption(tiny, noise, batching=BatchOptions(on_token=on_token))
    assert len(calls) == 3


def test_captions_end_at_max_new_tokens(tiny: Kosmos, four_images: torch.Tensor) -> None:
    assert caption(tiny, four_images[:1], max_new_tokens=3)[0].caption == "An image of a red"


def test_a_prompt_that_is_too_long_is_a_user_error(tiny: Kosmos, four_images: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"shorten it, or lower max_new_tokens\.$"):
        caption(tiny, four_images, "a dog " * 70)


def peak_of(work: Callable[[], object]) -> int:
    """Measure the most memory, in bytes, that some work holds at a time."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_the_estimate_is_an_upper_bound_of_the_memory_of_an_image(
    tiny: Kosmos, noise: torch.Tensor
) -> None:
    length = len(tokenize(tiny, BRIEF, 30).ids) + 30
    two, seven = (
        peak_of(
            lambda n=n: caption(
                tiny, noise[:n], max_new_tokens=30, batching=BatchOptions(batch_size=n)
            )
        )
        for n in (2, 7)
    )
    estimate = bytes_per_sequence(tiny.model, length)
    assert estimate / 6 < (seven - two) / 5 < estimate


def test_automatic_batch_sizes_use_the_measured_memory(tiny: Kosmos, noise: torch.Tensor) -> None:
    kosmos = replace(tiny, model=copy.deepcopy(tiny.model))
    each, cpu = bytes_per_sequence(kosmos.model, 80), torch.device("cpu")
    assert choose_batch_size(kosmos.model, BatchOptions(free_memory=8 * each), 80) == 4
    with measure_cost_share(kosmos.model, cpu, 400_000_000):
        torch.ones(200_000_000, dtype=torch.uint8)
    assert cost_share(kosmos.model) == pytest.approx(0.5, abs=0.02)
    assert choose_batch_size(kosmos.model, BatchOptions(free_memory=8 * each), 80) in (7, 8)
    with measure_cost_share(kosmos.model, cpu, 400_000_000):
        pass
    assert cost_share(kosmos.model) == pytest.approx(0.5, abs=0.02)

    fresh = replace(tiny, model=copy.deepcopy(tiny.model))
    assert cost_share(fresh.model) == 1.0
    caption(fresh, noise[:1])
    assert batch_sizes.MIN_COST_SHARE <= cost_share(fresh.model) < 1.0


def test_a_large_model_prefills_images_in_several_passes_on_a_cpu(
    tiny: Kosmos, noise: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = caption(tiny, noise)
    length = tokenize(tiny, BRIEF, 64).text_start
    two_images = 2 * 2 * tiny.model.num_parameters() * length
    monkeypatch.setattr(batch_sizes, "CPU_MULTIPLICATIONS", two_images)
    encoded, batches = [], []
    hook = tiny.model.vision_model.register_forward_pre_hook(
        lambda _, __, kwargs: encoded.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        captions = caption(
            tiny, noise, batching=BatchOptions(on_batch=lambda done, _: batches.append(done))
        )
    finally:
        hook.remove()
    assert captions == expected
    assert encoded == [2, 2, 2, 1]
    assert len(batches) < len(encoded)


def test_automatic_batch_sizes_follow_the_free_memory(tiny: Kosmos) -> None:
    model = copy.deepcopy(tiny.model)
    each = bytes_per_sequence(model, 80)

    def size(free_memory: int | None) -> int:
        return choose_batch_size(model, BatchOptions(free_memory=free_memory), 80)

    assert size(0) == 1
    assert size(6 * each) == 3
    assert size(10**12) == size(None)
    assert bytes_per_sequence(model, 160) > each
