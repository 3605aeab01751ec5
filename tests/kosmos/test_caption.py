"""Batches are described with boxes, the same as one by one, and running out of memory is no end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from kosmos_dreambooth.errors import MendableError
from kosmos_dreambooth.kosmos.batches import automatic_batch_size, bytes_per_picture
from kosmos_dreambooth.kosmos.caption import DETAILED, caption
from kosmos_dreambooth.kosmos.grounding import parse
from kosmos_dreambooth.kosmos.model import Kosmos
from kosmos_dreambooth.kosmos.preprocess import to_rgb
from PIL import Image


@contextmanager
def memory_for(pictures: int, kosmos: Kosmos) -> Iterator[None]:
    """Let the vision tower run out of memory as CUDA does, above a number of pictures."""

    def allocate(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if len(kwargs["pixel_values"]) > pictures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = kosmos.model.vision_model.register_forward_pre_hook(allocate, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.rand(7, 30, 40, 3, generator=torch.Generator().manual_seed(0))


def test_each_picture_gets_its_own_caption_and_boxes(
    tiny: Kosmos, four_pictures: torch.Tensor, lessons: list[str]
) -> None:
    assert caption(tiny, four_pictures) == [parse(f"An image of{text}") for text in lessons]


def test_captions_equal_those_of_transformers(tiny: Kosmos, four_pictures: torch.Tensor) -> None:
    for image, seen in zip(four_pictures, caption(tiny, four_pictures), strict=True):
        side = tiny.model.config.vision_config.image_size
        inputs = tiny.processor(
            images=Image.fromarray(to_rgb(image[None])[0].numpy()),
            text="<grounding>An image of",
            size={"height": side, "width": side},
            do_center_crop=False,
            num_image_tokens=tiny.model.config.latent_query_num,
            return_tensors="pt",
        )
        written = tiny.model.generate(**inputs, max_new_tokens=64, do_sample=False)
        raw = tiny.processor.batch_decode(written, skip_special_tokens=True)[0]
        expected, entities = tiny.processor.post_process_generation(raw)
        # The published decoder leaves the blank that its tokenizer adds behind a closed tag.
        assert seen.caption == expected.replace(" .", ".")
        assert [(p.text, (p.start, p.end), list(p.boxes)) for p in seen.phrases] == entities


@pytest.mark.parametrize("batch_size", [0, 2, 3, 7, 100])
def test_the_batch_size_changes_nothing(
    tiny: Kosmos, four_pictures: torch.Tensor, noise: torch.Tensor, batch_size: int
) -> None:
    for images in (four_pictures, noise):
        one_by_one = [caption(tiny, image[None], batch_size=1)[0] for image in images]
        assert caption(tiny, images, batch_size=batch_size) == one_by_one


def test_pictures_are_encoded_once_and_tokens_are_cached(
    tiny: Kosmos, four_pictures: torch.Tensor
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
        caption(tiny, four_pictures, batch_size=4)
    finally:
        for hook in hooks:
            hook.remove()
    assert encoded == [4]
    assert decoded[0][1] > 1
    assert set(decoded[1:]) == {(4, 1)}


def test_a_beginning_is_kept_and_a_request_is_not(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    begun = caption(tiny, four_pictures[:1], "A photo of")[0].caption
    answered = caption(tiny, four_pictures[:1], DETAILED)[0].caption
    assert begun.startswith("A photo of ")
    assert "Describe" not in answered


def test_batches_are_halved_when_memory_runs_out(tiny: Kosmos, noise: torch.Tensor) -> None:
    expected = caption(tiny, noise)
    done: list[tuple[int, int]] = []
    with memory_for(2, tiny):
        seen = caption(tiny, noise, batch_size=7, on_batch=lambda *counts: done.append(counts))
    assert seen == expected
    assert done == [(1, 7), (2, 7), (3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]


def test_memory_for_no_picture_at_all_is_an_error_to_mend(
    tiny: Kosmos, noise: torch.Tensor
) -> None:
    with memory_for(0, tiny), pytest.raises(MendableError, match="fp16"):
        caption(tiny, noise)


def test_a_cancelled_caption_ends_at_the_next_token(tiny: Kosmos, noise: torch.Tensor) -> None:
    heard = []

    def listen() -> None:
        heard.append(True)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption(tiny, noise, on_token=listen)
    assert len(heard) == 3


def test_captions_are_cut_at_the_limit(tiny: Kosmos, four_pictures: torch.Tensor) -> None:
    assert caption(tiny, four_pictures[:1], max_new_tokens=3)[0].caption == "An image of a red"


def test_a_prompt_without_room_is_an_error_to_mend(
    tiny: Kosmos, four_pictures: torch.Tensor
) -> None:
    with pytest.raises(MendableError, match=r"shorten it, or lower max_new_tokens\.$"):
        caption(tiny, four_pictures, "a dog " * 70)


def test_automatic_batches_follow_the_free_memory(tiny: Kosmos) -> None:
    each = bytes_per_picture(tiny.model, 80)
    assert automatic_batch_size(tiny.model, 80, 0) == 1
    assert automatic_batch_size(tiny.model, 80, 6 * each) == 3
    assert automatic_batch_size(tiny.model, 80, 10**12) == automatic_batch_size(
        tiny.model, 80, None
    )
    assert bytes_per_picture(tiny.model, 160) > each
