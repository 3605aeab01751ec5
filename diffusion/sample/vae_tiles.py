"""Encode and decode with a VAE, in tiles where the memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from ...shared.batching import free_cached_memory, unless_out_of_memory

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MIN_TILE = 32
"""Side of the smallest tile, in latent pixels."""


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Decode unscaled latents [N,C,h,w] to [N,3,H,W], -1..1; out of memory a single one in tiles.

    Tiles overlap and are blended by diffusers; a tile's normalisation knows nothing of the others.
    """

    def work() -> torch.Tensor:
        decoded: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return decoded

    return _in_tiles(vae, work, len(latents), max(latents.shape[-2:]))


def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> DiagonalGaussianDistribution:
    """Encode pixels [N,3,H,W], -1..1; out of memory a single image in tiles."""

    def work() -> DiagonalGaussianDistribution:
        return vae.encode(pixels).latent_dist

    return _in_tiles(vae, work, len(pixels), max(pixels.shape[-2:]) // _factor(vae))


def _factor(vae: AutoencoderKL) -> int:
    """Pixels per latent pixel."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _in_tiles(vae: AutoencoderKL, work: Callable[[], Result], count: int, side: int) -> Result:
    """Return `work()`; for one image that does not fit into memory, with tiles of half the side."""
    before = vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size
    try:
        while count == 1 and side >= 2 * MIN_TILE:
            result = unless_out_of_memory(work)
            if result is not None:
                return result
            side //= 2
            vae.use_tiling = True
            vae.tile_latent_min_size, vae.tile_sample_min_size = side, side * _factor(vae)
            log.warning("Out of memory: the VAE continues with tiles of %d latent pixels.", side)
            free_cached_memory()
        return work()
    finally:
        vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = before
