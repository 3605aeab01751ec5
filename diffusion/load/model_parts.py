"""Checks and helpers that all model formats share: valid files, and components that match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTokenizerFast

from ...shared import json_files
from ...shared.errors import UserError
from ..diffusion_model import Diffusion, inpainting_channels
from ..sample.schedulers import FLOW_PREDICTION

EncoderAndTokenizer = tuple[Any, CLIPTokenizerFast]
"""A text encoder with its tokenizer."""

OPEN_CLIP_PAD = "!"
"""OpenCLIP's text encoders, which have the activation gelu, are padded with token 0."""

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", FLOW_PREDICTION)


def assemble_model(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    encoders: Sequence[EncoderAndTokenizer],
    scheduler_config: dict[str, Any],
    *,
    source: str,
    name: str,
) -> Diffusion:
    """Check that the components match and join them, frozen and in evaluation mode.

    encoders: the only text encoder, or XL's two, with their tokenizers.

    Raises UserError when they do not match, such as the UNet's and the VAE's channels.
    """
    if scheduler_config.get("_class_name") == FLOW_SCHEDULER:  # it has no prediction_type
        scheduler_config = {**scheduler_config, "prediction_type": FLOW_PREDICTION}
    (text_encoder, tokenizer), *others = encoders
    text_encoder_2, tokenizer_2 = others[0] if others else (None, None)
    text_encoders = [encoder for encoder, _ in encoders]
    problem = _unusable_setting(vae, scheduler_config)
    problem = problem or _incompatibility(unet, vae, text_encoders, scheduler_config)
    if problem:
        raise UserError(f"The model {name} {problem}: choose a plain Stable Diffusion model.")
    if others and vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.float()  # activations of XL's VAE overflow in fp16
    for module in (unet, vae, *text_encoders):
        module.eval().requires_grad_(False)
    size = unet.config.sample_size or 64
    latent_side = size if isinstance(size, int) else max(size)
    return Diffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config={k: v for k, v in scheduler_config.items() if not k.startswith("_")},
        source=source,
        name=name,
        resolution=latent_side * 2 ** (len(vae.config.block_out_channels) - 1),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    )


def _unusable_setting(vae: AutoencoderKL, scheduler_config: dict[str, Any]) -> str | None:
    """Which number cannot be computed with, to be read after the model's name; None if all can."""
    settings = [
        ("num_train_timesteps", scheduler_config.get("num_train_timesteps", 1000), int, 100_000),
        ("beta_start", scheduler_config.get("beta_start", 0.1), float, 1),
        ("beta_end", scheduler_config.get("beta_end", 0.1), float, 1),
        ("shift", scheduler_config.get("shift", 1.0), float, 1000),
        ("scaling_factor", vae.config.scaling_factor, float, 1000),
    ]
    for name, value, kind, high in settings:
        allowed = (int,) if kind is int else (int, float)
        if type(value) not in allowed or not 0 < value <= high:
            return f"has the {name} {value}, which is no number above 0 and up to {high}"
    return None


def _incompatibility(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoders: Sequence[Any],
    scheduler_config: dict[str, Any],
) -> str | None:
    """Why the components do not match, to be read after the model's name; None if they do."""
    expected, channels = unet.config.in_channels, vae.config.latent_channels
    if expected not in (channels, inpainting_channels(channels)):
        return f"has a UNet for {expected} latent channels and a VAE with {channels}"
    expected = unet.config.cross_attention_dim
    width = sum(encoder.config.hidden_size for encoder in text_encoders)
    if expected != width:
        return f"has a UNet for prompts of width {expected} and a text encoder of width {width}"
    if (unet.config.addition_embed_type == "text_time") != (len(text_encoders) > 1):
        return "has a UNet and text encoders of different kinds"
    prediction = scheduler_config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        return f'predicts "{prediction}", which is not one of {", ".join(PREDICTION_TYPES)}'
    return None


def incomplete_error(file: Path, part: str) -> UserError:
    """The error for a checkpoint that lacks a component or some of its weights."""
    return UserError(
        f"{file.name} does not contain a complete Stable Diffusion {part}: choose a full "
        "checkpoint."
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; UserError if there is none."""
    return json_files.read_json(file, "download the model again")


def load_tokenizer(folder: Path, **changes: int | str) -> CLIPTokenizerFast:
    """Load CLIP's tokenizer from a folder; `changes` override its configuration."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: download the model again.")
    try:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise ValueError("there is no vocabulary")  # transformers makes an empty one
        return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True, **changes)
    except Exception as reason:  # tokenizers raises plain exceptions
        raise UserError(
            f"{folder} contains no CLIP vocabulary: download the model again."
        ) from reason
