"""Whatever fits into memory, every item is worked on once and in order."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.diffusion.sample.image_batches import in_batches
from kosmos_dreambooth.shared.errors import UserError


@given(count=st.integers(0, 60), size=st.integers(1, 60), room=st.integers(1, 60))
def test_every_item_once_and_in_order(count, size, room):
    tried = []

    def work(part):
        length = part.stop - part.start
        tried.append(length)
        if length > room:
            raise torch.OutOfMemoryError("out of memory")
        return list(range(count))[part]

    done = [item for _, items in in_batches(count, size, work) for item in items]
    assert done == list(range(count))
    assert all(later <= earlier for earlier, later in itertools.pairwise(tried))
    assert max(tried, default=0) <= size


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    def work(part):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_batches(2, 2, work))


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
        "MPS backend out of memory (MPS allocated: 8.99 GiB)",
    ],
)
def test_an_item_that_never_fits_ends_the_work(words):
    def work(part):
        raise RuntimeError(words)

    with pytest.raises(UserError, match="not enough memory"):
        list(in_batches(4, 4, work))
