"""Trains the sandbox's AutoencoderKL: 64x64 pictures to 8x8 latents of 8 channels and back."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import DIFFUSION
from .averaging import Average
from .checkpoint import load_state, save_state
from .pool import Pool, Sample
from .world.scene import Scene, draw_scene, render

log = logging.getLogger(__name__)

PIXELS = 64


def new_model() -> AutoencoderKL:
    """AutoencoderKL of four levels, so a factor of 8 between pixels and latents."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=PIXELS,
        mid_block_add_attention=False,
    )


def draw_varied(seed: int, size: int) -> Sample:
    """A scene of the world, one in four with colours and clothes that the world does not have.

    A real autoencoder has seen everything; this one has seen at least other colours than the
    eight, so that it can show subjects from outside the world.
    """
    scene = draw_scene(seed)
    rng = np.random.default_rng((seed, 1))
    if rng.uniform() < 0.25:
        tints = [tuple(int(v) for v in rng.integers(20, 250, 3)) for _ in range(4)]
        things = tuple(
            replace(
                thing,
                one=replace(
                    thing.one,
                    tint=tints[0],
                    second=tints[1] if rng.uniform() < 0.5 else None,
                    scarf=tints[2] if rng.uniform() < 0.5 else None,
                    odd_ear=tints[3] if rng.uniform() < 0.5 else None,
                ),
            )
            for thing in scene.things
        )
        scene = Scene(things, scene.background, scene.seed, scene.horizon)
    picture, boxes = render(scene, size)
    return Sample(scene, np.asarray(picture), boxes)


def to_tensor(samples: list[Sample]) -> torch.Tensor:
    """[B, 3, H, W] in -1..1."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in samples]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def reconstruction_loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Absolute error of the pixels, and of their differences, which keeps outlines sharp."""
    loss = F.l1_loss(made, true) + 0.5 * F.mse_loss(made, true)
    for a, b in zip(_edges(made), _edges(true)):
        loss = loss + F.l1_loss(a, b)
    return loss


def train(
    folder: Path, minutes: float, batch: int, rate: float, seed: int, decoder_only: bool
) -> None:
    """Train for ``minutes``; ``decoder_only`` leaves the latents, and so the painter, as they are."""
    torch.manual_seed(seed)
    known = (folder / "config.json").exists()
    model = AutoencoderKL.from_pretrained(folder) if known else new_model()
    model.float().train()
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    log.info("autoencoder: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    average = Average(model)
    name = "decoder" if decoder_only else "autoencoder"
    step = load_state(name, model, optimizer, average)
    pool = Pool(PIXELS, 20_000, batch // 2, seed + 50_000_000 + step * batch // 2, draw_varied)
    rng = np.random.default_rng((seed, step))
    began = saved = time.monotonic()
    recent: list[float] = []
    while (spent := (time.monotonic() - began) / (60 * minutes)) < 1:
        warm = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * spent)) / 2)
        true = to_tensor(pool.batch(batch, rng))
        latents = model.encode(true).latent_dist
        loss = reconstruction_loss(model.decode(latents.sample()).sample, true)
        recent.append(loss.item())
        if not decoder_only:
            loss = loss + 1e-5 * latents.kl().mean() / latents.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(model)
        step += 1
        if step % 100 == 0:
            log.info("step %d  loss %.4f  %.1f %%", step, np.mean(recent[-100:]), 100 * spent)
        if time.monotonic() - saved > 240:
            _keep(folder, name, step, model, optimizer, average)
            saved = time.monotonic()
    _keep(folder, name, step, model, optimizer, average)


@torch.no_grad()
def latent_scale(model: AutoencoderKL, count: int = 256) -> float:
    """One over the standard deviation of the latents, diffusers' ``scaling_factor``."""
    samples = [draw_varied(60_000_000 + k, PIXELS) for k in range(count)]
    return 1 / model.encode(to_tensor(samples)).latent_dist.mean.std().item()


def _keep(folder: Path, name: str, step: int, model, optimizer, average: Average) -> None:
    save_state(name, step, model, optimizer, average)
    average.swap(model)
    if name == "autoencoder":
        model.register_to_config(scaling_factor=round(latent_scale(model), 5))
    small = AutoencoderKL.from_config(model.config)
    small.load_state_dict(model.state_dict())
    small.half().save_pretrained(folder)
    average.swap(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--decoder-only", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    train(
        DIFFUSION / "vae",
        options.minutes,
        options.batch,
        options.rate,
        options.seed,
        options.decoder_only,
    )
