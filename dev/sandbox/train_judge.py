"""Train the judge that scores the sandbox's generated images."""

from __future__ import annotations

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
from ...sandbox.judge import IMAGE_SIZE, NAMES, WEIGHTS, Judge
from ...sandbox.world.individual import Individual, draw_individual
from ...sandbox.world.lexicon import COLOURS, KINDS
from ...sandbox.world.scene import place
from .scene_pool import Pool, Sample, render_sample
from .train_autoencoder import to_tensor
from .training_record import add_to_record
from .training_run import parse_training_arguments
from .varied_scenes import draw_varied_sample

log = logging.getLogger(__name__)

FIRST_SEED = 400_000_000


def _truth(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    kinds = torch.zeros(len(samples), len(KINDS))
    colours = torch.full((len(samples), len(KINDS)), -100)
    backgrounds = torch.tensor([NAMES.index(s.scene.background) for s in samples])
    for row, sample in enumerate(samples):
        for thing in sample.scene.things:
            k, colour = KINDS.index(thing.individual.kind), COLOURS.index(thing.individual.colour)
            is_ambiguous = kinds[row, k] == 1 and colours[row, k] != colour
            colours[row, k] = -100 if is_ambiguous else colour
            kinds[row, k] = 1
    return kinds, colours, backgrounds


def _portrait(one: Individual, seed: int) -> Sample:
    rng = np.random.default_rng((seed, 2))
    turned = replace(one, flip=bool(rng.integers(2)))
    scene = place([turned], NAMES[rng.integers(len(NAMES))], seed, rng)
    return render_sample(scene, IMAGE_SIZE)


def _twins(first_seed: int, count: int) -> list[Sample]:
    """2 * count portraits: the k-th and the (count + k)-th show the same individual.

    Half of them are of one kind, so that the kind alone does not identify an individual.
    """
    rng = np.random.default_rng(first_seed)
    kind = KINDS[rng.integers(len(KINDS))]
    ones = []
    for k in range(count):
        if rng.uniform() < 0.3:
            ones.append(draw_varied_sample(first_seed + k, 8).scene.things[0].individual)
        else:
            ones.append(draw_individual(rng, kind if k < count // 2 else None))
    return [
        _portrait(one, first_seed + side * count + k)
        for side in (0, 1)
        for k, one in enumerate(ones)
    ]


def _identity_loss(vectors: torch.Tensor) -> torch.Tensor:
    """Contrastive loss between twins (NT-Xent, Chen et al. 2020, equation 1)."""
    count = len(vectors) // 2
    similar = vectors @ vectors.T / 0.1
    similar.fill_diagonal_(-math.inf)
    twin = torch.arange(2 * count).roll(count)
    return functional.cross_entropy(similar, twin)


def train(folder: Path, minutes: float, seed: int) -> None:
    """Train from scratch, and write the weights as fp16 safetensors."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae").float().eval()
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-3)
    pool = Pool(IMAGE_SIZE, 12_000, 24, FIRST_SEED + seed)
    rng = np.random.default_rng(seed)
    start = time.monotonic()
    step = 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        scenes = pool.batch(40, rng)
        twins = _twins(FIRST_SEED + 50_000_000 + step * 100, 20)
        images = to_tensor([*scenes, *twins]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                mask = torch.from_numpy(rng.uniform(size=len(images)) < 0.25)
                latents = vae.encode(images[mask]).latent_dist.mean
                noise = 0.1 * torch.randn_like(latents) / vae.config.scaling_factor
                images[mask] = vae.decode(latents + noise).sample.float().clamp(-1, 1)
            outputs = judge(images)
        kinds, colours, backgrounds, vectors = (output.float() for output in outputs)
        true_kinds, true_colours, true_backgrounds = _truth(scenes)
        count = len(scenes)
        colour_loss = functional.cross_entropy(
            colours[:count].flatten(0, 1), true_colours.flatten()
        )
        loss = (
            5 * functional.binary_cross_entropy_with_logits(kinds[:count], true_kinds)
            + colour_loss
            + functional.cross_entropy(backgrounds[:count], true_backgrounds)
            + _identity_loss(vectors[count:])
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            log.info("step %d  loss %.4f  %.1f %%", step, loss.item(), 100 * progress)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    add_to_record("judge", step, len(images), minutes, seed, restart=True)


def main() -> None:
    """Train the judge."""
    options = parse_training_arguments(__doc__, minutes=10.0)
    train(JUDGE, options.minutes, options.seed)
