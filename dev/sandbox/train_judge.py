"""Train the judge that scores the sandbox's generated images."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch.nn import functional

from ...sandbox import DIFFUSION, JUDGE
from ...sandbox.judge import NAMES, PIXELS, WEIGHTS, Judge
from ...sandbox.world.individual import Individual, draw_individual
from ...sandbox.world.lexicon import COLOURS, KINDS
from ...sandbox.world.scene import place, render
from .scene_pool import Pool, Sample, draw_sample
from .train_autoencoder import draw_varied, to_tensor
from .training_record import record

log = logging.getLogger(__name__)

FIRST_SEED = 400_000_000


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
