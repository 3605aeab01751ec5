"""A small SD3 and a VAE of its latents, with random weights, as files that core's loaders open."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

CONTEXT, POOLED, CHANNELS = 48, 32, 16
"""Widths of the conditioning, and the channels of the latents."""
PATCH = 2
PATCHES = 8
"""Patches of the longest side that the model has positions for."""
FACTOR = 8
"""Side in pixels of a cell of the VAE's latents."""


def write_sd3(file: Path, *, depth: int = 1, context: int = CONTEXT) -> Path:
    """Write a diffusion model of `depth` blocks of the width 64 * depth, for core's UNETLoader."""
    width = 64 * depth
    layers = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.mlp.0": (width, POOLED),
        "y_embedder.mlp.2": (width, width),
        "context_embedder": (width, context),
        "x_embedder.proj": (width, CHANNELS, PATCH, PATCH),
        "final_layer.linear": (PATCH**2 * CHANNELS, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for number in range(depth):
        for kind in ("x", "context"):
            block = f"joint_blocks.{number}.{kind}_block"
            layers[f"{block}.attn.qkv"] = (3 * width, width)
            if kind == "context" and number == depth - 1:  # nothing reads its output
                layers[f"{block}.adaLN_modulation.1"] = (2 * width, width)
                continue
            layers |= {
                f"{block}.attn.proj": (width, width),
                f"{block}.mlp.fc1": (4 * width, width),
                f"{block}.mlp.fc2": (width, 4 * width),
                f"{block}.adaLN_modulation.1": (6 * width, width),
            }
    source = torch.Generator().manual_seed(0)
    shapes = {"pos_embed": (1, PATCHES**2, width)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    weights = {k: 0.05 * torch.randn(shape, generator=source) for k, shape in shapes.items()}
    save_file(weights, file)
    return file


def write_tiny_vae(file: Path) -> Path:
    """Write a TAESD for core's VAELoader."""
    torch.manual_seed(0)
    weights = {}
    for name, value in AutoencoderTiny(latent_channels=CHANNELS).state_dict().items():
        part, _, number, parameter = name.split(".", 3)
        shift = part == "decoder"  # core counts a layer in front, which has no weights
        weights[f"taesd_{part}.{int(number) + shift}.{parameter}"] = value
    save_file(weights, file)
    return file
