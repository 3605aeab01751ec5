"""Drawn scenes: single ones, ranges of seeds, and a pool for training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ...sandbox.world.scene import Box, Scene, draw_scene, render
from ...shared.images import to_batch


@dataclass(frozen=True)
class Sample:
    """A scene, its image (uint8 [H,W,3]) and one box per thing."""

    scene: Scene
    pixels: np.ndarray
    boxes: list[Box]


def render_sample(scene: Scene, size: int) -> Sample:
    """Render a scene, size x size pixels."""
    image, boxes = render(scene, size)
    return Sample(scene, np.asarray(image), boxes)


def draw_sample(seed: int, size: int, count: int | None = None) -> Sample:
    """Draw and render the scene of a seed, with `count` things or one to three."""
    return render_sample(draw_scene(seed, count), size)


def draw_samples(first_seed: int, count: int, size: int) -> list[Sample]:
    """Draw the scenes of consecutive seeds."""
    return [draw_sample(first_seed + k, size) for k in range(count)]


def as_images(samples: Iterable[Sample]) -> torch.Tensor:
    """The samples' images, float32 [N,H,W,3] in 0..1."""
    return to_batch(sample.pixels for sample in samples)


class Pool:
    """Keeps up to `capacity` samples; each batch adds `fresh` new ones and replaces the oldest."""

    def __init__(
        self,
        size: int,
        capacity: int,
        fresh: int,
        first_seed: int,
        draw: Callable[[int, int], Sample] = draw_sample,
    ) -> None:
        self.size, self.capacity, self.fresh, self.next_seed = size, capacity, fresh, first_seed
        self.draw = draw
        self.samples: list[Sample] = []

    def batch(self, count: int, rng: np.random.Generator) -> list[Sample]:
        """Return `count` random samples; the first call draws at least that many."""
        for _ in range(max(self.fresh, count - len(self.samples))):
            sample = self.draw(self.next_seed, self.size)
            if len(self.samples) < self.capacity:
                self.samples.append(sample)
            else:
                self.samples[self.next_seed % self.capacity] = sample
            self.next_seed += 1
        return [self.samples[k] for k in rng.integers(len(self.samples), size=count)]
