"""Randomness that is addressed, not remembered.

Whatever a step draws is a function of (seed, step, slot in the global batch) alone, so a resumed
run, or one that shares its batch among several processes, draws the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draw:
    """What one slot of one step draws.

    `picture` indexes the pictures, `timestep` the diffusion process; `noise` and `posterior` are
    standard normal tensors [C,h,w]: the noise to add, and the place in the VAE's posterior.
    `offset` [C,1,1] is standard normal noise that a whole channel has in common; `flip` is true in
    half of the draws, and `luck` is uniform in 0..1.
    """

    picture: int
    timestep: int
    noise: torch.Tensor
    posterior: torch.Tensor
    offset: torch.Tensor
    flip: bool
    luck: float


@dataclass(frozen=True)
class Deck:
    """The pictures of one `kind`, from which each step draws `slots` times.

    `shape` is that of one latent, [C,h,w]; `timesteps` is the length of the diffusion process.
    """

    seed: int
    kind: str
    slots: int
    pictures: int
    shape: tuple[int, ...]
    timesteps: int

    def draw(self, step: int, slot: int) -> Draw:
        """Draw for one slot of one step."""
        source = generator(self.seed, self.kind, step, slot)
        return Draw(
            picture=deal(self.seed, self.kind, step * self.slots + slot, self.pictures),
            timestep=int(torch.randint(self.timesteps, (), generator=source)),
            noise=torch.randn(self.shape, generator=source),
            posterior=torch.randn(self.shape, generator=source),
            offset=torch.randn((self.shape[0], 1, 1), generator=source),
            flip=bool(torch.rand((), generator=source) < 0.5),
            luck=float(torch.rand((), generator=source)),
        )


def deal(seed: int, kind: str, turn: int, pictures: int) -> int:
    """Return the picture that comes in a turn.

    They are dealt like cards: each of them once, in an order of its own, before any comes again.
    """
    round_, place = divmod(turn, pictures)
    order = torch.randperm(pictures, generator=generator(seed, kind, "deal", round_))
    return int(order[place])


def generator(*address: int | str) -> torch.Generator:
    """Return the source of randomness at an address."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
