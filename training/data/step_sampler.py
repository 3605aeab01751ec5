"""Randomness that is addressed, not remembered.

Whatever a step draws is a function of (seed, step, slot in the global batch) alone, so a resumed
run, or one that shares its batch among several processes, draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepSample:
    """What one slot of one step draws.

    `picture` indexes the pictures, `timestep` the diffusion process; `noise` and `posterior` are
    standard normal tensors [C,h,w]: the noise to add, and the place in the VAE's posterior.
    `offset` [C,1,1] is standard normal noise that a whole channel has in common; `flip` is true in
    half of the draws, and `uniform` is uniform in 0..1.
    """

    picture: int
    timestep: int
    noise: torch.Tensor
    posterior: torch.Tensor
    offset: torch.Tensor
    flip: bool
    uniform: float


@dataclass(frozen=True)
class StepSampler:
    """Pictures of one `kind` and one size, from which each step draws `slots` times.

    `shape` is that of one latent, [C,h,w]; `timesteps` is the length of the diffusion process.
    """

    seed: int
    kind: str
    slots: int
    pictures: int
    shape: tuple[int, ...]
    timesteps: int

    def draw(self, step: int, slot: int, turn: int | None = None) -> StepSample:
        """Draw for one slot of one step; `turn` counts this deck's own steps, if not all are."""
        turn = step if turn is None else turn
        source = generator(self.seed, self.kind, step, slot)
        return StepSample(
            picture=shuffled_index(self.seed, self.kind, turn * self.slots + slot, self.pictures),
            timestep=int(torch.randint(self.timesteps, (), generator=source)),
            noise=torch.randn(self.shape, generator=source),
            posterior=torch.randn(self.shape, generator=source),
            offset=torch.randn((self.shape[0], 1, 1), generator=source),
            flip=bool(torch.rand((), generator=source) < 0.5),
            uniform=float(torch.rand((), generator=source)),
        )


def shuffled_index(seed: int, kind: str, turn: int, pictures: int) -> int:
    """Return the picture that comes in a turn.

    They are dealt like cards: each of them once, in an order of its own, before any comes again.
    """
    round_, place = divmod(turn, pictures)
    order = torch.randperm(pictures, generator=generator(seed, kind, "deal", round_))
    return int(order[place])


def choose_bucket(seed: int, kind: str, step: int, counts: Sequence[int]) -> tuple[int, int]:
    """Return which of several decks of `counts` pictures a step draws from, and that deck's turn.

    In as many steps as there are pictures, each deck has as many turns as it has pictures, in an
    order of their own; so all pictures are seen equally often.
    """
    round_, place = divmod(step, sum(counts))
    decks = torch.repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(decks), generator=generator(seed, kind, "deck", round_))
    decks = decks[order]
    chosen = int(decks[place])
    return chosen, round_ * counts[chosen] + int((decks[:place] == chosen).sum())


def generator(*address: int | str) -> torch.Generator:
    """Return the source of randomness at an address."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
