"""DreamBooth and textual inversion as diffusers' documented scripts do them, in plain loops.

Each step encodes images and captions again, as the scripts do by default. Without launcher, data
loader and image scaling at each step, the loops are faster than the scripts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional

from ...diffusion.diffusion_model import Diffusion

LORA_LAYERS = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Examples:
    """Images [N,3,side,side], float32 -1..1, and the token ids [N,L] of their captions."""

    pixels: torch.Tensor
    ids: torch.Tensor


def train(
    diffusion: Diffusion,
    subject: Examples,
    class_images: Examples | None,
    *,
    method: str,
    rank: int,
    batch_size: int,
    steps: int,
    learning_rate: float,
    mixed: bool = False,
) -> None:
    """Train as train_dreambooth.py ("unet", or "full" with the text encoder),
    train_dreambooth_lora.py ("lora") or textual_inversion.py ("embedding") do; XL as their
    counterparts for XL do. `mixed`: in bf16 as `--mixed_precision bf16`.
    """
    unet, vae, text_encoder = diffusion.unet, diffusion.vae, diffusion.text_encoder
    if mixed and method in ("lora", "embedding"):
        diffusion.modules.to(torch.bfloat16)
    embedding = text_encoder.get_input_embeddings().weight
    original = embedding.detach().clone()
    other_tokens = torch.arange(len(embedding)) != subject.ids[0, 2]
    if method == "lora":
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_LAYERS)
        inject_adapter_in_model(config, unet)
    elif method == "embedding":
        embedding.requires_grad_(True)
    else:
        unet.requires_grad_(True)
        for encoder in diffusion.text_encoders:
            encoder.requires_grad_(method == "full")
    unet.train()
    modules = (unet, *diffusion.text_encoders)
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=learning_rate)
    scheduler = DDPMScheduler.from_config(diffusion.scheduler_config)
    order = itertools.cycle(torch.randperm(len(subject.pixels)).tolist())
    if class_images is not None:
        class_order = itertools.cycle(torch.randperm(len(class_images.pixels)).tolist())
    for _ in range(steps):
        rows = list(itertools.islice(order, batch_size))
        pixels, ids = subject.pixels[rows], subject.ids[rows]
        if class_images is not None:
            rows = list(itertools.islice(class_order, batch_size))
            pixels = torch.cat([pixels, class_images.pixels[rows]])
            ids = torch.cat([ids, class_images.ids[rows]])
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=mixed):
            with torch.no_grad():
                latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample()
                latents = latents * vae.config.scaling_factor
            with torch.set_grad_enabled(method in ("full", "embedding")):
                states, conditions = _encode(diffusion, ids.to(vae.device), pixels.shape[-1])
            noise = torch.randn_like(latents)
            timesteps = torch.randint(
                scheduler.config.num_train_timesteps, (len(latents),), device=latents.device
            )
            noisy = scheduler.add_noise(latents, noise, timesteps)
            prediction = unet(noisy, timesteps, states, return_dict=False, **conditions)[0]
            target = noise
            if scheduler.config.prediction_type == "v_prediction":
                target = scheduler.get_velocity(latents, noise, timesteps)
            loss = functional.mse_loss(prediction[:batch_size], target[:batch_size])
            if class_images is not None:
                loss = loss + functional.mse_loss(prediction[batch_size:], target[batch_size:])
        loss.backward()
        if method != "embedding":
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if method == "embedding":
            with torch.no_grad():
                embedding[other_tokens] = original[other_tokens]
        loss.item()  # the scripts log it after each step


def _encode(
    diffusion: Diffusion, ids: torch.Tensor, side: int
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Encode token ids [N,L] of captions of square images; return states and XL's conditions."""
    if diffusion.text_encoder_2 is None:
        return diffusion.text_encoder(ids).last_hidden_state, {}
    outputs = [encoder(ids, output_hidden_states=True) for encoder in diffusion.text_encoders]
    states = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    sizes = torch.tensor([side, side, 0, 0, side, side], device=ids.device).repeat(len(ids), 1)
    added = {"text_embeds": outputs[1].text_embeds, "time_ids": sizes}
    return states, {"added_cond_kwargs": added}


def token_ids(diffusion: Diffusion, captions: Sequence[str]) -> torch.Tensor:
    """Return the token ids [N,L] of captions, padded to the model's length."""
    return diffusion.tokenizer(
        list(captions),
        padding="max_length",
        max_length=diffusion.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
