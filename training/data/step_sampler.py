"""Random values that are a function of seed, step and slot, independent of any earlier draw.

A step's global batch has numbered slots. Every value is drawn by a generator seeded with a hash of
(seed, step, slot), so a resumed run, or one whose batch is split over processes, draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepSample:
    """The random values of one slot of one step.

    `image_index` is the image and `timestep` the timestep index. Standard normal are `noise`
    [C,h,w], which is added to the latent, `posterior_noise` [C,h,w], which samples the VAE's
    posterior, and `offset_noise` [C,1,1], one value per channel. `flip` is true with probability
    1/2; `uniform` is uniform in 0..1.
    """

    image_index: int
    timestep: int
    noise: torch.Tensor
    posterior_noise: torch.Tensor
    offset_noise: torch.Tensor
    flip: bool
    uniform: float


@dataclass(frozen=True)
class StepSampler:
    """Samples `slots` slots per step from `image_count` images of one `kind` and one size.

    `shape` is that of a latent, (C,h,w); `num_timesteps` is the length of the forward process.
    """

    seed: int
    kind: str
    slots: int
    image_count: int
    shape: tuple[int, ...]
    num_timesteps: int

    def sample(self, step: int, slot: int, bucket_step: int | None = None) -> StepSample:
        """Sample one slot of a step; `bucket_step` counts the steps of this bucket (None: all)."""
        position = (step if bucket_step is None else bucket_step) * self.slots + slot
        source = generator(self.seed, self.kind, step, slot)
        return StepSample(
            image_index=shuffled_index(self.seed, self.kind, position, self.image_count),
            timestep=int(torch.randint(self.num_timesteps, (), generator=source)),
            noise=torch.randn(self.shape, generator=source),
            posterior_noise=torch.randn(self.shape, generator=source),
            offset_noise=torch.randn((self.shape[0], 1, 1), generator=source),
            flip=bool(torch.rand((), generator=source) < 0.5),
            uniform=float(torch.rand((), generator=source)),
        )


def shuffled_index(seed: int, kind: str, position: int, count: int) -> int:
    """Return the index at a position of endless epochs over `count` items, each epoch shuffled."""
    epoch, offset = divmod(position, count)
    order = torch.randperm(count, generator=generator(seed, kind, "deal", epoch))
    return int(order[offset])


def choose_bucket(seed: int, kind: str, step: int, counts: Sequence[int]) -> tuple[int, int]:
    """Return the bucket that a step samples from, and how many earlier steps sampled from it.

    `counts` are the images in each bucket. In an epoch of sum(counts) steps each bucket is chosen
    as often as it has images, in shuffled order, so all images are used equally often.
    """
    epoch, offset = divmod(step, sum(counts))
    buckets = torch.repeat_interleave(torch.tensor(counts))
    buckets = buckets[torch.randperm(len(buckets), generator=generator(seed, kind, "deck", epoch))]
    chosen = int(buckets[offset])
    return chosen, epoch * counts[chosen] + int((buckets[:offset] == chosen).sum())


def generator(*address: int | str) -> torch.Generator:
    """Return a generator that is seeded with the hash of an address."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
