"""What every way of loading a model needs: files that are whole, and parts that fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from transformers import CLIPTokenizerFast

from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from ..sample.schedulers import FLOW

Reader = tuple[Any, CLIPTokenizerFast]
"""A text encoder with the tokenizer that makes its tokens."""

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
PREDICTIONS = ("epsilon", "v_prediction", "sample", FLOW)


def assemble_model(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    readers: Sequence[Reader],
    scheduler_config: dict[str, Any],
    *,
    source: str,
    name: str,
) -> Diffusion:
    """Check that the parts belong together and join them, frozen and in evaluation mode.

    readers: of prompts, one or XL's two.

    Raises UserError when the UNet's channels or prompt width fit no other part.
    """
    if scheduler_config.get("_class_name") == FLOW_SCHEDULER:  # which names no prediction
        scheduler_config = {**scheduler_config, "prediction_type": FLOW}
    (text_encoder, tokenizer), *more = readers
    text_encoder_2, tokenizer_2 = more[0] if more else (None, None)
    encoders = [encoder for encoder, _ in readers]
    misfit = _misfit(unet, vae, encoders, scheduler_config)
    if misfit:
        raise UserError(f"The model {name} {misfit}: choose a plain Stable Diffusion model.")
    if more and vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.float()  # what happens inside XL's VAE is too large for fp16
    for module in (unet, vae, *encoders):
        module.eval().requires_grad_(False)
    size = unet.config.sample_size or 64
    cells = size if isinstance(size, int) else max(size)
    return Diffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config={k: v for k, v in scheduler_config.items() if not k.startswith("_")},
        source=source,
        name=name,
        resolution=cells * 2 ** (len(vae.config.block_out_channels) - 1),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    )


def _misfit(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    encoders: Sequence[Any],
    scheduler_config: dict[str, Any],
) -> str | None:
    """What is wrong with the parts, to be read after the model's name; None if they fit."""
    wanted, channels = unet.config.in_channels, vae.config.latent_channels
    if wanted != channels:
        return f"has a UNet for {wanted} latent channels and a VAE that makes {channels}"
    wanted = unet.config.cross_attention_dim
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if wanted != width:
        return f"has a UNet for prompts of width {wanted} and a text encoder of width {width}"
    if (unet.config.addition_embed_type == "text_time") != (len(encoders) > 1):
        return "has a UNet and text encoders of different kinds"
    prediction = scheduler_config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        return f'predicts "{prediction}", which is not one of {", ".join(PREDICTIONS)}'
    return None


def incomplete(file: Path, part: str) -> UserError:
    """The error of a checkpoint that lacks a part, or some of its weights."""
    return UserError(
        f"{file.name} does not hold a whole Stable Diffusion {part}: choose a full checkpoint."
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise UserError(f"{file} is missing or damaged: fetch the model again.") from reason
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a configuration: fetch the model again.")
    return content


def load_tokenizer(folder: Path, **changes: int | str) -> CLIPTokenizerFast:
    """CLIP's tokenizer from its vocabulary; `changes` overrule what its configuration says."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: fetch the model again.")
    try:
        return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True, **changes)
    except (OSError, ValueError, TypeError) as reason:
        raise UserError(f"{folder} holds no CLIP vocabulary: fetch the model again.") from reason


def require_whole(file: Path) -> None:
    """Raise UserError unless `file` is a safetensors file from its first byte to its last."""
    try:
        with safe_open(file, framework="pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as reason:
        raise UserError(
            f"{file} is damaged or only half written ({reason}): fetch it again."
        ) from reason
