"""DreamBooth as diffusers' documentation describes it, for a user who writes the loop.

Each step encodes pictures and captions anew, as the documented script does by default; it is a
plain loop without a launcher, which flatters it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional

from ..diffusion.model import Diffusion

LORA_LAYERS = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Examples:
    """Pictures [N,3,side,side], float32 -1..1, and the ids [N,L] of their captions."""

    pixels: torch.Tensor
    ids: torch.Tensor


def train(
    diffusion: Diffusion,
    subject: Examples,
    class_pictures: Examples,
    *,
    method: str,
    rank: int,
    batch_size: int,
    steps: int,
    rate: float,
) -> list[float]:
    """Train the UNet, whole or by "lora", and return the time at the end of each step."""
    unet, vae, text_encoder = diffusion.unet, diffusion.vae, diffusion.text_encoder
    if method == "lora":
        choice = LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_LAYERS)
        inject_adapter_in_model(choice, unet)
    else:
        unet.requires_grad_(True)
    unet.train()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    scheduler = DDPMScheduler.from_config(diffusion.scheduler_config)
    order = itertools.cycle(torch.randperm(len(subject.pixels)).tolist())
    class_order = itertools.cycle(torch.randperm(len(class_pictures.pixels)).tolist())
    times = []
    for _ in range(steps):
        rows = list(itertools.islice(order, batch_size))
        class_rows = list(itertools.islice(class_order, batch_size))
        pixels = torch.cat([subject.pixels[rows], class_pictures.pixels[class_rows]])
        ids = torch.cat([subject.ids[rows], class_pictures.ids[class_rows]])
        with torch.no_grad():
            latents = vae.encode(pixels.to(vae.device)).latent_dist.sample()
            latents = latents * vae.config.scaling_factor
            states = text_encoder(ids.to(text_encoder.device)).last_hidden_state
        noise = torch.randn_like(latents)
        timesteps = torch.randint(
            scheduler.config.num_train_timesteps, (len(latents),), device=latents.device
        )
        noisy = scheduler.add_noise(latents, noise, timesteps)
        prediction = unet(noisy, timesteps, states, return_dict=False)[0]
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(latents, noise, timesteps)
        prediction, class_prediction = prediction.chunk(2)
        target, class_target = target.chunk(2)
        loss = functional.mse_loss(prediction, target)
        loss = loss + functional.mse_loss(class_prediction, class_target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # the documented script shows it after each step
        times.append(time.time())
    return times


def captioned(diffusion: Diffusion, captions: Sequence[str]) -> torch.Tensor:
    """Return the ids [N,L] of captions, padded to the model's length."""
    return diffusion.tokenizer(
        list(captions),
        padding="max_length",
        max_length=diffusion.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
