"""Train the sandbox's AutoencoderKL: 128x128 images to 16x16 latents of 8 channels and back."""

from __future__ import annotations

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
from .optimizer import MuonAdamW
from .scene_pool import Sample
from .training_run import Budget, Run, copy_without_path, parse_training_arguments
from .varied_scenes import draw_varied_sample

IMAGE_SIZE = 128


def new_model() -> AutoencoderKL:
    """AutoencoderKL of four levels, so a factor of 8 between pixels and latents."""
    model = AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=1,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )
    init_as_average(model)
    return model


@torch.no_grad()
def init_as_average(model: AutoencoderKL) -> None:
    """Initialise so that a latent is the mean colour of its 8x8 block, and decodes to that colour.

    Six channels carry +RGB and -RGB through all levels: silu(x) - silu(-x) = x, so activations
    leave them unchanged. Residual branches are zero. Colours are then right from the first step;
    with a random initialisation they took most of the training time.
    """
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _pass_channels(module.conv_shortcut, torch.ones(1, 1))
        elif isinstance(module, Downsample2D):
            kernel = torch.zeros(3, 3)
            kernel[:2, :2] = 0.25
            _pass_channels(module.conv, kernel)
        elif isinstance(module, Upsample2D):
            ramp = torch.tensor([0.25, 0.5, 0.25])
            _pass_channels(module.conv, ramp.outer(ramp))
    _pass_channels(model.encoder.conv_in, _centre(1.0), inputs=3)
    _pass_channels(model.decoder.conv_in, _centre(1.0), inputs=3)
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


def _pass_channels(conv: nn.Conv2d, kernel: torch.Tensor, inputs: int = 6) -> None:
    """Pass the first six channels on unchanged; three inputs as +RGB and -RGB."""
    conv.weight[:6] = 0
    if conv.bias is not None:
        conv.bias[:6] = 0
    for channel in range(6):
        sign = -1 if channel >= inputs else 1
        conv.weight[channel, channel % inputs] = sign * kernel


def to_tensor(samples: list[Sample]) -> torch.Tensor:
    """The samples' images, float32 [B,3,H,W] in -1..1."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in samples]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _differences(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]


def reconstruction_loss(reconstructed: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of the pixels, and L1 of neighbours' differences for sharp outlines."""
    loss = functional.l1_loss(reconstructed, true) + 2 * functional.mse_loss(reconstructed, true)
    for a, b in zip(_differences(reconstructed), _differences(true), strict=True):
        loss = loss + functional.l1_loss(a, b) / 2
    return loss


def train(folder: Path, budget: Budget, learning_rate: float) -> None:
    """Train, from the weights in `folder` if there are any."""
    torch.manual_seed(budget.seed)
    exists = (folder / "config.json").exists()
    model = AutoencoderKL.from_pretrained(folder) if exists else new_model()
    model.float().train()
    optimizer = MuonAdamW(
        [(model, 1.0)],
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        without_muon=(model.encoder.conv_in, model.decoder.conv_in, model.decoder.conv_out),
    )

    def write() -> None:
        saved = copy_without_path(model)
        standardise(saved)
        saved.half().save_pretrained(folder)

    run = Run("autoencoder", budget, model, optimizer, write, learning_rate=learning_rate)
    first_seed = 50_000_000 + budget.seed * 10_000_000
    for step in run.steps():
        start = first_seed + step * budget.batch
        samples = [draw_varied_sample(start + k, IMAGE_SIZE) for k in range(budget.batch)]
        true = to_tensor(samples).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(true).latent_dist
            reconstructed = model.decode(latents.sample()).sample
        loss = reconstruction_loss(reconstructed.float(), true)
        run.optimize(loss + 1e-5 * latents.kl().mean() / latents.mean[0].numel())


@torch.no_grad()
def standardise(model: AutoencoderKL, count: int = 512) -> None:
    """Give each latent channel mean 0 and standard deviation 1, without changing reconstructions.

    The shift and scale go into the two 1x1 convolutions around the latents. A diffusion model's
    loss weights all channels equally, so they should have one scale.
    """
    samples = [draw_varied_sample(60_000_000 + k, IMAGE_SIZE) for k in range(count)]
    latents = model.encode(to_tensor(samples)).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    encode, decode = model.quant_conv, model.post_quant_conv
    encode.weight[:channels] /= std.view(-1, 1, 1, 1)
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std.view(1, -1, 1, 1)
    model.register_to_config(scaling_factor=1.0)


def main() -> None:
    """Train the autoencoder."""
    options = parse_training_arguments(__doc__, minutes=40.0, batch=4, rate=3e-3)
    budget = Budget(options.minutes, options.batch, options.seed)
    train(DIFFUSION / "vae", budget, options.rate)
