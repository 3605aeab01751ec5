"""Batching: every item is processed once and in order, in batches that fit into memory."""

from __future__ import annotations

import errno
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.shared.batching import (
    LowMemoryError,
    in_batches,
    is_out_of_memory,
    memory_remedy,
)
from kosmos_dreambooth.shared.errors import UserError


@given(
    count=st.integers(0, 60),
    size=st.integers(1, 60),
    fitting=st.integers(1, 60),
    callable_size=st.booleans(),
)
def test_every_item_is_processed_once_and_in_order(
    count: int, size: int, fitting: int, callable_size: bool
) -> None:
    lengths, progress = [], []

    def work(batch: slice) -> list[int]:
        length = batch.stop - batch.start
        lengths.append(length)
        if length > fitting:
            raise torch.OutOfMemoryError("out of memory")
        return list(range(count))[batch]

    results = in_batches(
        count,
        (lambda: size) if callable_size else size,
        work,
        on_batch=lambda *counts: progress.append(counts),
    )
    assert list(results) == list(range(count))
    assert all(later <= earlier for earlier, later in itertools.pairwise(lengths))
    assert max(lengths, default=0) <= size
    fitted = [length for length in lengths if length <= fitting]
    assert progress == [(done, count) for done in itertools.accumulate(fitted)]


def test_a_batch_is_yielded_before_the_next_one_is_computed() -> None:
    starts = []

    def work(batch: slice) -> list[int]:
        starts.append(batch.start)
        return [batch.start]

    assert next(in_batches(4, 2, work)) == 0
    assert starts == [0]


def test_other_errors_are_not_swallowed() -> None:
    def work(batch: slice) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_batches(2, 2, work))


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
        "MPS backend out of memory (MPS allocated: 8.99 GiB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_an_item_that_does_not_fit_is_a_user_error(message: str) -> None:
    def work(batch: slice) -> list[int]:
        raise RuntimeError(message)

    with pytest.raises(UserError, match=r"not enough memory for a single item: buy some\."):
        list(in_batches(4, 4, work, remedy="buy some"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (UserError("The prompt is out of memory: write another."), False),
    ],
)
def test_a_lack_of_memory_is_told_also_by_its_cause(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    misread = UserError("The file is damaged: copy it again.")
    misread.__cause__ = error
    assert is_out_of_memory(misread) is expected


@pytest.mark.parametrize("error", [MemoryError(), LowMemoryError("buy some", "a batch")])
def test_who_calls_names_the_task_and_its_remedy(error: Exception) -> None:
    with (
        pytest.raises(LowMemoryError) as raised,
        memory_remedy("sell some", "a shop"),
    ):
        raise error
    assert str(raised.value) == "There is not enough memory for a shop: sell some."
    assert not is_out_of_memory(raised.value)
