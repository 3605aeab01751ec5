"""Trains the sandbox's AutoencoderKL: 64x64 pictures to 8x8 latents of 8 channels and back."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional

from ...sandbox import DIFFUSION
from ...sandbox.world.individual import nearest_colour, shifted
from ...sandbox.world.scene import Scene, draw_scene, render
from .scene_pool import Pool, Sample
from .training_run import Budget, Run
from .training_state import without_origin

PIXELS = 64


def new_model() -> AutoencoderKL:
    """AutoencoderKL of four levels, so a factor of 8 between pixels and latents."""
    model = AutoencoderKL(
        block_out_channels=(16, 24, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=1,
        sample_size=PIXELS,
        mid_block_add_attention=False,
    )
    start_as_average(model)
    return model


@torch.no_grad()
def start_as_average(model: AutoencoderKL) -> None:
    """Begin with latents that are the mean colour of each 8x8 block, and pictures made of them.

    Six channels carry +RGB and -RGB through all levels: silu(x) - silu(-x) = x, so they pass the
    activations unchanged. Residual branches begin at zero. From there, right colours are there
    at once and only detail has to be learned; from a random start they took most of the time.
    """
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut, torch.ones(1, 1))
        elif isinstance(module, Downsample2D):
            kernel = torch.zeros(3, 3)
            kernel[:2, :2] = 0.25
            _carry(module.conv, kernel)
        elif isinstance(module, Upsample2D):
            ramp = torch.tensor([0.25, 0.5, 0.25])
            _carry(module.conv, ramp.outer(ramp))
    _carry(model.encoder.conv_in, _centre(1.0), inputs=3)
    _carry(model.decoder.conv_in, _centre(1.0), inputs=3)
    for conv in (model.encoder.conv_out, model.decoder.conv_out):
        conv.weight[:3] = 0
        for colour in range(3):
            conv.weight[colour, colour] = _centre(0.5)
            conv.weight[colour, 3 + colour] = _centre(-0.5)
    latents = model.config.latent_channels
    nn.init.zeros_(model.encoder.conv_out.weight[latents:])
    nn.init.constant_(model.encoder.conv_out.bias[latents:], -6.0)
    for conv in (model.quant_conv, model.post_quant_conv):
        conv.weight.copy_(torch.eye(conv.out_channels).view_as(conv.weight))
        nn.init.zeros_(conv.bias)


def _centre(value: float) -> torch.Tensor:
    kernel = torch.zeros(3, 3)
    kernel[1, 1] = value
    return kernel


def _carry(conv: nn.Conv2d, kernel: torch.Tensor, inputs: int = 6) -> None:
    """Let the first six channels pass; from three inputs, as themselves and negated."""
    conv.weight[:6] = 0
    if conv.bias is not None:
        conv.bias[:6] = 0
    for channel in range(6):
        sign = -1 if channel >= inputs else 1
        conv.weight[channel, channel % inputs] = sign * kernel


def draw_varied(seed: int, size: int) -> Sample:
    """A scene of the world, one in four with colours and clothes that the world does not have.

    A real autoencoder has seen everything; this one has seen at least other colours than the
    eight, so that it can show subjects from outside the world.
    """
    scene = draw_scene(seed)
    rng = np.random.default_rng((seed, 1))
    if rng.uniform() < 0.25:
        tints = [shifted((0, 0, 0), 1, rng.integers(20, 250, 3).tolist()) for _ in range(4)]
        things = tuple(
            replace(
                thing,
                one=replace(
                    thing.one,
                    colour=nearest_colour(tints[0]),
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
    loss = functional.l1_loss(made, true) + 2 * functional.mse_loss(made, true)
    for a, b in zip(_edges(made), _edges(true), strict=True):
        loss = loss + functional.l1_loss(a, b) / 2
    return loss


def train(folder: Path, budget: Budget, rate: float, *, decoder_only: bool) -> None:
    """Train; ``decoder_only`` leaves the latents, and so the painter, alone."""
    torch.manual_seed(budget.seed)
    known = (folder / "config.json").exists()
    model = AutoencoderKL.from_pretrained(folder) if known else new_model()
    model.float().train()
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, betas=(0.9, 0.99), weight_decay=1e-4)

    def write() -> None:
        small = AutoencoderKL.from_config(without_origin(model.config))
        small.load_state_dict(model.state_dict())
        if not decoder_only:
            standardise(small)
        small.half().save_pretrained(folder)

    name = "decoder" if decoder_only else "autoencoder"
    run = Run(name, budget, model, optimizer, write, rate=rate)
    fresh = budget.batch // 2
    pool = Pool(PIXELS, 20_000, fresh, budget.seed + 50_000_000 + run.step * fresh, draw_varied)
    rng = np.random.default_rng((budget.seed, run.step))
    for _ in run.steps():
        true = to_tensor(pool.batch(budget.batch, rng))
        latents = model.encode(true).latent_dist
        loss = reconstruction_loss(model.decode(latents.sample()).sample, true)
        if not decoder_only:
            loss = loss + 1e-5 * latents.kl().mean() / latents.mean[0].numel()
        run.learn(loss)


@torch.no_grad()
def standardise(model: AutoencoderKL, count: int = 512) -> None:
    """Give each latent channel mean 0 and standard deviation 1, without changing a picture.

    The two 1x1 convolutions round the latents take the shift and the scale in. A painter's loss
    counts all channels alike, so they had better be of one size.
    """
    samples = [draw_varied(60_000_000 + k, PIXELS) for k in range(count)]
    latents = model.encode(to_tensor(samples)).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:channels] /= std.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)
    model.register_to_config(scaling_factor=1.0)


def main() -> None:
    """Read the command line and train the autoencoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--decoder-only", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    budget = Budget(options.minutes, options.batch, options.seed)
    train(DIFFUSION / "vae", budget, options.rate, decoder_only=options.decoder_only)
