"""Drawn scenes for training: a pool that is sampled often and renewed a little each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...sandbox.world.scene import Box, Scene, draw_scene, render


@dataclass(frozen=True)
class Sample:
    """A scene, its picture (uint8 [H, W, 3]) and one box per thing."""

    scene: Scene
    pixels: np.ndarray
    boxes: list[Box]


def draw_sample(seed: int, size: int, count: int | None = None) -> Sample:
    """Draw and render the scene that ``seed`` addresses."""
    scene = draw_scene(seed, count)
    picture, boxes = render(scene, size)
    return Sample(scene, np.asarray(picture), boxes)


class Pool:
    """Keeps ``capacity`` samples. ``batch`` renews ``fresh`` of them, then picks at random."""

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

    def _renew(self, count: int) -> None:
        for _ in range(count):
            sample = self.draw(self.next_seed, self.size)
            if len(self.samples) < self.capacity:
                self.samples.append(sample)
            else:
                self.samples[self.next_seed % self.capacity] = sample
            self.next_seed += 1

    def batch(self, count: int, rng: np.random.Generator) -> list[Sample]:
        """``count`` samples; the first call fills the pool with that many at least."""
        self._renew(max(self.fresh, count - len(self.samples)))
        return [self.samples[k] for k in rng.integers(len(self.samples), size=count)]
