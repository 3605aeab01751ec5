"""Train the decoder alone, half of the time on latents as the diffusion model leaves them.

Denoised latents are slightly off, and a decoder that knows only encoded ones blurs their outlines
and colours. The encoder, and so the diffusion model, stays the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from ...diffusion.load.model_source import load_diffusion
from ...sandbox import DIFFUSION
from ...sandbox.world.scene import draw_scene
from .optimizer import MuonAdamW
from .scene_pool import render_sample
from .train_autoencoder import IMAGE_SIZE, reconstruction_loss, to_tensor
from .train_diffusion import new_scheduler, random_prompt
from .training_run import Budget, Run, copy_without_path, parse_training_arguments
from .varied_scenes import VARIED_SHARE, draw_varied_scene, varied_prompt

FIRST_SEED = 70_000_000
LEVELS = (80, 450)
"""Timesteps to which latents are noised: their scene stays, its details are drawn anew."""


class SDEdit:
    """Adds noise to latents and denoises them (Meng et al. 2021, "SDEdit", arXiv:2108.01073)."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.diffusion = load_diffusion(folder)
        self.alphas = new_scheduler().alphas_cumprod
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Return latents [B,C,h,w] after two DDIM steps from one random level, without guidance."""
        unet, tokenizer = self.diffusion.unet, self.diffusion.tokenizer
        tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        states = self.diffusion.text_encoder(tokens.input_ids).last_hidden_state
        first = int(torch.randint(*LEVELS, (), generator=self.generator))
        clean, noise = latents, torch.randn(latents.shape, generator=self.generator)
        for level in (first, first // 3):
            alpha, sigma = self.alphas[level].sqrt(), (1 - self.alphas[level]).sqrt()
            noisy = alpha * clean + sigma * noise
            velocity = unet(noisy, level, encoder_hidden_states=states).sample
            clean = alpha * noisy - sigma * velocity
            noise = sigma * noisy + alpha * velocity
        return clean


def train(folder: Path, budget: Budget, learning_rate: float) -> None:
    """Train from the weights in `folder`, a diffusers folder."""
    torch.manual_seed(budget.seed)
    model = AutoencoderKL.from_pretrained(folder / "vae").float().train()
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    decoder = model.decoder
    optimizer = MuonAdamW(
        [(model, 1.0)],
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        without_muon=(decoder.conv_in, decoder.conv_out),
    )

    def write() -> None:
        copy_without_path(model).half().save_pretrained(folder / "vae")

    run = Run("decoder", budget, model, optimizer, write, learning_rate=learning_rate)
    sdedit = SDEdit(folder, budget.seed)
    rng = np.random.default_rng((budget.seed, run.step))
    denoised = budget.batch // 2
    for step in run.steps():
        scenes, prompts = [], []
        for seed in range(FIRST_SEED + step * budget.batch, FIRST_SEED + (step + 1) * budget.batch):
            varied = rng.uniform() < VARIED_SHARE
            scenes.append(draw_varied_scene(seed) if varied else draw_scene(seed))
            prompts.append((varied_prompt if varied else random_prompt)(scenes[-1], rng))
        true = to_tensor([render_sample(scene, IMAGE_SIZE) for scene in scenes])
        with torch.no_grad():
            latents = model.encode(true).latent_dist.mean
        scaled = latents[:denoised] * model.config.scaling_factor
        latents[:denoised] = sdedit(scaled, prompts[:denoised]) / model.config.scaling_factor
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decode(latents.contiguous(memory_format=torch.channels_last)).sample
        run.optimize(reconstruction_loss(decoded.float(), true))


def main() -> None:
    """Train the decoder."""
    options = parse_training_arguments(__doc__, minutes=20.0, batch=4, rate=1.5e-3)
    train(DIFFUSION, Budget(options.minutes, options.batch, options.seed), options.rate)
