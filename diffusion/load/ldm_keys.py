"""Stable Diffusion's original key names, which checkpoint files and ComfyUI's own models have.

`checkpoint` reads them; here diffusers' names are turned into them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from ..diffusion_model import Diffusion
from . import open_clip_keys

Rules = tuple[tuple[str, str], ...]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
XL_TEXT = "conditioner.embedders.0.transformer."
XL_OPEN_CLIP = "conditioner.embedders.1.model."

RESNET: Rules = (
    (r"norm1", "in_layers.0"),
    (r"conv1", "in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"norm2", "out_layers.0"),
    (r"conv2", "out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
)
UNET_ENDS: Rules = (
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
VAE_NAMES: Rules = (
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
    """All of a model's weights by the names that they have in a checkpoint of its kind.

    Like all tensors here they are the model's own and share its memory, but for what OpenCLIP
    keeps in one.
    """
    return {
        **_under(UNET, unet_weights(diffusion.unet)),
        **_under(VAE, vae_weights(diffusion.vae)),
        **_reader_weights(diffusion),
    }


def _reader_weights(diffusion: Diffusion) -> dict[str, torch.Tensor]:
    encoder, second = diffusion.text_encoder, diffusion.text_encoder_2
    first = text_weights(encoder)
    if second is not None:
        return {
            **_under(f"{XL_TEXT}text_model.", first),
            **_under(XL_OPEN_CLIP, open_clip_keys.original_weights(text_weights(second))),
        }
    if encoder.config.hidden_act != "gelu":  # OpenAI's CLIP has an approximation of it
        return _under(f"{TEXT}text_model.", first)
    # 2.x reads the last layer but one of OpenCLIP's, and other programs look for the last as well.
    layers = encoder.config.num_hidden_layers
    unread = {
        key.replace(f".{layers - 1}.", f".{layers}."): torch.zeros_like(weight)
        for key, weight in first.items()
        if key.startswith(f"encoder.layers.{layers - 1}.")
    }
    return _under(OPEN_CLIP, open_clip_keys.original_weights({**first, **unread}))


def _under(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: weight for key, weight in weights.items()}


def unet_weights(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """A UNet's weights by their original names: `input_blocks.0.0.weight` and so on."""
    weights = unet.state_dict()
    layers = unet.config.layers_per_block
    return {_unet_key(key, layers, weights): weight for key, weight in weights.items()}


def vae_weights(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """A VAE's weights by their original names: `encoder.conv_in.weight` and so on."""
    levels = len(vae.config.block_out_channels)
    return {
        _vae_key(key, levels): _as_convolution(key, weight)
        for key, weight in vae.state_dict().items()
    }


def is_original_vae(vae: AutoencoderKL) -> bool:
    """Whether a VAE has the sizes that all of Stable Diffusion 1.x, 2.x and XL have."""
    config = vae.config
    return (
        list(config.block_out_channels) == [128, 256, 512, 512]
        and (config.layers_per_block, config.latent_channels, config.norm_num_groups) == (2, 4, 32)
        and config.mid_block_add_attention
    )


def text_weights(encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """A text encoder's weights by Hugging Face's names, without the level `text_model`."""
    return {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def _unet_key(key: str, layers: int, keys: Iterable[str]) -> str:
    """input_blocks and output_blocks number what down_blocks and up_blocks hold in levels."""
    key = _renamed(key, UNET_ENDS)
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if found:
        side, part, rest = found[1], found[3], found[5]
        level, index = int(found[2]), int(found[4])
        start = level * (layers + 1)
        if part == "downsamplers":
            key = f"input_blocks.{start + layers + 1}.0.{rest.replace('conv', 'op')}"
        elif part == "upsamplers":
            attends = f"up_blocks.{level}.attentions.0.norm.weight" in keys
            key = f"output_blocks.{start + layers}.{2 if attends else 1}.{rest}"
        else:
            first = f"input_blocks.{start + 1 + index}"
            block = first if side == "down" else f"output_blocks.{start + index}"
            key = f"{block}.{int(part == 'attentions')}.{rest}"
    return key if ".transformer_blocks." in key else _renamed(key, RESNET)


def _vae_key(key: str, levels: int) -> str:
    found = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.*)", key)
    if found:  # the decoder's levels are numbered from the picture's side
        level = f"decoder.up.{levels - 1 - int(found[1])}"
        block = f"block.{found[3]}" if found[2] == "resnets" else "upsample"
        key = f"{level}.{block}.{found[4]}"
    return _renamed(key, VAE_NAMES)


def _renamed(key: str, rules: Rules) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def _as_convolution(key: str, weight: torch.Tensor) -> torch.Tensor:
    """The VAE's attention is made of 1x1 convolutions there."""
    is_attention = ".attentions." in key and weight.ndim == 2
    return weight[:, :, None, None] if is_attention else weight
