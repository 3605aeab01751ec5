"""Rename diffusers' keys to the original (LDM) ones of checkpoint files and ComfyUI's models."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from ..diffusion_model import Diffusion
from . import open_clip_keys

RenameRules = tuple[tuple[str, str], ...]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
XL_TEXT = "conditioner.embedders.0.transformer."
XL_OPEN_CLIP = "conditioner.embedders.1.model."

RESNET_RULES: RenameRules = (
    (r"norm1", "in_layers.0"),
    (r"conv1", "in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"norm2", "out_layers.0"),
    (r"conv2", "out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
)
UNET_EDGES: RenameRules = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
VAE_RULES: RenameRules = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
)


def checkpoint_weights(diffusion: Diffusion) -> dict[str, torch.Tensor]:
    """All of a model's weights by their keys in a checkpoint.

    The tensors share the model's memory, except the attention weights that OpenCLIP concatenates.
    """
    return {
        **_with_prefix(UNET, unet_weights(diffusion.unet)),
        **_with_prefix(VAE, vae_weights(diffusion.vae)),
        **_text_encoder_weights(diffusion),
    }


def _text_encoder_weights(diffusion: Diffusion) -> dict[str, torch.Tensor]:
    encoder, second = diffusion.text_encoder, diffusion.text_encoder_2
    first = text_weights(encoder)
    if second is not None:
        return {
            **_with_prefix(f"{XL_TEXT}text_model.", first),
            **_with_prefix(XL_OPEN_CLIP, open_clip_keys.original_weights(text_weights(second))),
        }
    if encoder.config.hidden_act != "gelu":  # OpenAI's CLIP has quick_gelu
        return _with_prefix(f"{TEXT}text_model.", first)
    # 2.x uses OpenCLIP's penultimate layer; other programs require the last layer's keys as well.
    layers = encoder.config.num_hidden_layers
    unused = {
        key.replace(f".{layers - 1}.", f".{layers}."): torch.zeros_like(weight)
        for key, weight in first.items()
        if key.startswith(f"encoder.layers.{layers - 1}.")
    }
    return _with_prefix(OPEN_CLIP, open_clip_keys.original_weights({**first, **unused}))


def _with_prefix(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: weight for key, weight in weights.items()}


def unet_weights(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """A UNet's weights by their original keys: `input_blocks.0.0.weight` and so on."""
    weights = unet.state_dict()
    layers = unet.config.layers_per_block
    return {_unet_key(key, layers, weights): weight for key, weight in weights.items()}


def vae_weights(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """A VAE's weights by their original keys: `encoder.conv_in.weight` and so on."""
    levels = len(vae.config.block_out_channels)
    return {
        _vae_key(key, levels): _as_convolution(key, weight)
        for key, weight in vae.state_dict().items()
    }


def is_original_vae(vae: AutoencoderKL) -> bool:
    """Whether a VAE has the architecture of Stable Diffusion 1.x, 2.x and XL."""
    config = vae.config
    return (
        list(config.block_out_channels) == [128, 256, 512, 512]
        and (config.layers_per_block, config.latent_channels, config.norm_num_groups) == (2, 4, 32)
        and config.mid_block_add_attention
    )


def text_weights(encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """A text encoder's weights by transformers' keys, without the prefix `text_model.`."""
    return {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def _unet_key(key: str, layers: int, keys: Iterable[str]) -> str:
    """Number the layers of down_blocks and up_blocks consecutively, as LDM does."""
    key = _apply_rules(key, UNET_EDGES)
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if match:
        direction, part, suffix = match[1], match[3], match[5]
        level, index = int(match[2]), int(match[4])
        start = level * (layers + 1)
        if part == "downsamplers":
            key = f"input_blocks.{start + layers + 1}.0.{suffix.replace('conv', 'op')}"
        elif part == "upsamplers":
            has_attention = f"up_blocks.{level}.attentions.0.norm.weight" in keys
            key = f"output_blocks.{start + layers}.{2 if has_attention else 1}.{suffix}"
        else:
            input_block = f"input_blocks.{start + 1 + index}"
            block = input_block if direction == "down" else f"output_blocks.{start + index}"
            key = f"{block}.{int(part == 'attentions')}.{suffix}"
    return key if ".transformer_blocks." in key else _apply_rules(key, RESNET_RULES)


def _vae_key(key: str, levels: int) -> str:
    match = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.*)", key)
    if match:  # LDM numbers the decoder's levels from the image to the latents
        level = f"decoder.up.{levels - 1 - int(match[1])}"
        block = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        key = f"{level}.{block}.{match[4]}"
    return _apply_rules(key, VAE_RULES)


def _apply_rules(key: str, rules: RenameRules) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def _as_convolution(key: str, weight: torch.Tensor) -> torch.Tensor:
    """LDM's VAE attention has 1x1 convolutions where diffusers' has linear layers."""
    is_attention = ".attentions." in key and weight.ndim == 2
    return weight[:, :, None, None] if is_attention else weight
