"""Trains the judge: a small convolutional network that says what a picture of the world shows.

It scores the painter, so it shares nothing with the captioner: other seeds, other architecture,
pictures as the autoencoder returns them. A second head tells individuals apart whatever the
background, which is what "nearer to the subject than to the class" is measured with.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from . import DIFFUSION, JUDGE
from .autoencoder import PIXELS, draw_varied, to_tensor
from .pool import Pool, Sample, draw_sample
from .record import record
from .world.individual import Individual, draw_individual
from .world.lexicon import BACKGROUNDS, COLOURS, KINDS
from .world.scene import place, render

log = logging.getLogger(__name__)

NAMES = tuple(BACKGROUNDS)
FIRST_SEED = 400_000_000
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Seen:
    """What the judge sees in one picture: kind -> colour, and the background."""

    things: dict[str, str]
    background: str


class Judge(nn.Module):
    """Pictures [B, 3, 64, 64] in -1..1 to logits and to unit vectors of 64 numbers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2 if k < 3 else 1, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*layers)
        self.kinds = nn.Conv2d(128, len(KINDS), 1)
        self.colours = nn.Conv2d(128, len(KINDS) * len(COLOURS), 1)
        self.backgrounds = nn.Linear(128, len(NAMES))
        self.identity = nn.Conv2d(128, 65, 1)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Kind logits [B, 12], colour logits [B, 12, 8], background logits [B, 8], vectors [B, 64].

        Kinds and colours are pooled over places by their maximum; vectors by a learned attention.
        """
        grid = self.trunk(pictures)
        kinds = self.kinds(grid).flatten(2)
        where = kinds.softmax(-1).unsqueeze(2)
        colours = self.colours(grid).flatten(2).unflatten(1, (len(KINDS), len(COLOURS)))
        vectors = self.identity(grid).flatten(2)
        pooled = (vectors[:, :64] * vectors[:, 64:].softmax(-1)).sum(-1)
        return (
            kinds.amax(-1),
            (colours * where).sum(-1),
            self.backgrounds(grid.mean((2, 3))),
            functional.normalize(pooled, dim=-1),
        )

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> list[Seen]:
        """What each picture shows; ``images`` [B, H, W, 3] float 0..1."""
        kinds, colours, backgrounds, _ = self(_prepare(images))
        return [
            Seen(
                {
                    KINDS[k]: COLOURS[int(colours[row, k].argmax())]
                    for k in torch.nonzero(kinds[row] > 0).flatten().tolist()
                },
                NAMES[int(backgrounds[row].argmax())],
            )
            for row in range(len(images))
        ]

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, 64] of who is in each picture; ``images`` [B, H, W, 3] float 0..1."""
        return self(_prepare(images))[3]


def _prepare(images: torch.Tensor) -> torch.Tensor:
    pictures = images.float().permute(0, 3, 1, 2)
    if pictures.shape[-2:] != (PIXELS, PIXELS):
        pictures = functional.interpolate(
            pictures, (PIXELS, PIXELS), mode="bilinear", antialias=True
        )
    return pictures * 2 - 1


def load_judge(folder: Path = JUDGE) -> Judge:
    """The judge with the weights that lie in git."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    return judge.eval()


def _truth(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    kinds = torch.zeros(len(samples), len(KINDS))
    colours = torch.full((len(samples), len(KINDS)), -100)
    backgrounds = torch.tensor([NAMES.index(s.scene.background) for s in samples])
    for row, sample in enumerate(samples):
        for thing in sample.scene.things:
            k, colour = KINDS.index(thing.one.kind), COLOURS.index(thing.one.colour)
            told_already = kinds[row, k] == 1 and colours[row, k] != colour
            colours[row, k] = -100 if told_already else colour
            kinds[row, k] = 1
    return kinds, colours, backgrounds


def _portrait(one: Individual, seed: int) -> Sample:
    rng = np.random.default_rng((seed, 2))
    turned = replace(one, flip=bool(rng.integers(2)))
    scene = place([turned], NAMES[rng.integers(len(NAMES))], seed, rng)
    picture, boxes = render(scene, PIXELS)
    return Sample(scene, np.asarray(picture), boxes)


def _twins(first_seed: int, count: int) -> list[Sample]:
    """``2 * count`` portraits: the k-th and the (count + k)-th show the same individual.

    Half of them are of one kind, so that telling kinds apart is not enough.
    """
    rng = np.random.default_rng(first_seed)
    kind = KINDS[rng.integers(len(KINDS))]
    ones = []
    for k in range(count):
        if rng.uniform() < 0.3:
            ones.append(draw_varied(first_seed + k, 8).scene.things[0].one)
        else:
            ones.append(draw_individual(rng, kind if k < count // 2 else None))
    return [
        _portrait(one, first_seed + side * count + k)
        for side in (0, 1)
        for k, one in enumerate(ones)
    ]


def _identity_loss(vectors: torch.Tensor) -> torch.Tensor:
    """Each portrait has to find its twin among all others (NT-Xent, Chen et al. 2020, eq. 1)."""
    count = len(vectors) // 2
    similar = vectors @ vectors.T / 0.1
    similar.fill_diagonal_(-math.inf)
    twin = torch.arange(2 * count).roll(count)
    return functional.cross_entropy(similar, twin)


def train(folder: Path, minutes: float, seed: int) -> None:
    """Train for ``minutes`` from nothing, and write the weights as fp16 safetensors."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae").float().eval()
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-3)
    pool = Pool(PIXELS, 12_000, 24, FIRST_SEED + seed, draw_sample)
    rng = np.random.default_rng(seed)
    began = time.monotonic()
    step = 0
    while (spent := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * spent)) / 2)
        scenes = pool.batch(40, rng)
        twins = _twins(FIRST_SEED + 50_000_000 + step * 100, 20)
        pictures = to_tensor([*scenes, *twins])
        with torch.no_grad():
            through = torch.from_numpy(rng.uniform(size=len(pictures)) < 0.25)
            latents = vae.encode(pictures[through]).latent_dist.mean
            noise = 0.1 * torch.randn_like(latents) / vae.config.scaling_factor
            pictures[through] = vae.decode(latents + noise).sample.clamp(-1, 1)
        kinds, colours, backgrounds, vectors = judge(pictures)
        true_kinds, true_colours, true_backgrounds = _truth(scenes)
        here = len(scenes)
        told = functional.cross_entropy(colours[:here].flatten(0, 1), true_colours.flatten())
        loss = (
            5 * functional.binary_cross_entropy_with_logits(kinds[:here], true_kinds)
            + told
            + functional.cross_entropy(backgrounds[:here], true_backgrounds)
            + _identity_loss(vectors[here:])
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            log.info("step %d  loss %.4f  %.1f %%", step, loss.item(), 100 * spent)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    record("judge", step, len(pictures), minutes, seed, anew=True)


def main() -> None:
    """Read the command line and train the judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    train(JUDGE, options.minutes, options.seed)
