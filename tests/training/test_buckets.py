"""Aspect ratio buckets: images of different shapes, one size in each batch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.data.buckets import Size, bucket_sizes, nearest_size
from kosmos_dreambooth.training.data.latents import time_ids_for
from kosmos_dreambooth.training.data.step_sampler import choose_bucket
from kosmos_dreambooth.training.dreambooth.dreambooth_module import DreamBoothModule
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file

from .conftest import trained

SUBJECT = {Size(16, 16), Size(20, 12), Size(8, 32)}
"""The bucket sizes of the three images of the fixture: [16,16], [20,31] and [64,17]."""


@given(st.integers(2, 16), st.integers(1, 64))
def test_every_size_is_a_multiple_of_the_step_within_the_area(count: int, step: int) -> None:
    resolution = count * step
    sizes = bucket_sizes(resolution, step)
    assert Size(resolution, resolution) in sizes
    for size in sizes:
        assert size.width % step == size.height % step == 0
        assert size.width * size.height <= resolution**2
        assert Size(size.height, size.width) in sizes
        assert max(size.width, size.height) <= 2 * resolution


def test_an_image_gets_the_nearest_aspect_ratio() -> None:
    sizes = bucket_sizes(512, 64)
    assert nearest_size((900, 900), sizes) == Size(512, 512)
    assert nearest_size((1000, 1500), sizes) == Size(640, 384)
    assert nearest_size((3000, 200), sizes) == Size(256, 1024)
    assert nearest_size((1000, 1500), bucket_sizes(512, 0)) == Size(512, 512)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 20))
def test_all_images_are_sampled_equally_often(counts: list[int], seed: int) -> None:
    turns: dict[int, list[int]] = {k: [] for k in range(len(counts))}
    for step in range(3 * sum(counts)):
        chosen, turn = choose_bucket(seed, "subject", step, counts)
        turns[chosen].append(turn)
    assert all(turns[k] == list(range(3 * count)) for k, count in enumerate(counts))


def test_time_ids_are_original_size_crop_offset_and_size() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    assert time_ids_for(image, Size(64, 64)).tolist() == [100, 300, 0, 64, 64, 64]
    assert time_ids_for(image, Size(96, 32)).tolist() == [100, 300, 0, 0, 32, 96]


def sizes_of_passes(run, monkeypatch) -> list[set[tuple[int, int]]]:
    """Train, and return the sizes in pixels of the latents of each pass of the UNet."""
    passes = []
    sample_losses = DreamBoothModule._sample_losses

    def record(self, batch):
        passes.append({tuple(2 * side for side in latent.shape[:0:-1]) for latent in batch.noisy})
        return sample_losses(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(DreamBoothModule, "_sample_losses", record)
        assert train(run, StopRequest())
    return passes


def test_a_batch_has_one_size_and_every_size_is_used(make_run, tmp_path, monkeypatch) -> None:
    run = make_run(tmp_path, bucket_step=4, steps=6, flip=True)
    passes = sizes_of_passes(run, monkeypatch)
    assert all(len(sizes_of) == 1 for sizes_of in passes)
    assert {Size(*size) for sizes_of in passes for size in sizes_of} == SUBJECT
    cached = load_file(run.latents)
    assert {key.split(".")[1] for key in cached if key.startswith("flipped")} == set(
        map(str, SUBJECT)
    )
    assert cached["subject.8x32.mean"].shape == (1, 4, 16, 4)


def test_a_run_with_buckets_resumes_bit_identically(make_run, tmp_path: Path) -> None:
    settings = {"bucket_step": 4, "steps": 6, "batch_size": 4}
    whole = trained(make_run, tmp_path / "whole", **settings)
    parts = trained(make_run, tmp_path / "parts", stops=3, **settings)
    assert loss_curve(parts.events) == loss_curve(whole.events)
    one, other = load_file(parts.lora), load_file(whole.lora)
    assert all(torch.equal(one[key], other[key]) for key in other)
    settings |= {"batch_size": 1, "accumulation": 4}
    split = trained(make_run, tmp_path / "split", **settings)
    assert loss_curve(split.events) == pytest.approx(loss_curve(whole.events), rel=1e-5)
    assert not math.isnan(sum(loss_curve(split.events)))


def test_a_bucket_step_that_does_not_fit_the_latents_is_an_error(make_run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set it to a multiple of 2, or to 0"):
        train(make_run(tmp_path, bucket_step=5), StopRequest())
