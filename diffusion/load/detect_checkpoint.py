"""Detect a checkpoint's architecture from the keys and shapes in its header."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from ...shared.errors import UserError
from ..diffusion_model import inpainting_channels
from .checkpoint_keys import original_keys
from .ldm_keys import UNET
from .model_parts import read_json

CONFIGS = Path(__file__).parent / "configs"
SD1, SD2, XL = CONFIGS / "sd1", CONFIGS / "sd2", CONFIGS / "sdxl"
ARCHITECTURES = (SD1, SD2, XL)
FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
PROMPT_LAYER = "attn2.to_k.weight"
# Cross-attention width of the UNet -> folder of configurations.
CONFIG_BY_PROMPT_WIDTH = {768: SD1, 1024: SD2, 2048: XL}
REFINER_PROMPT_WIDTH = 1280
# Missing in XL's distilled variants (SSD-1B, Vega, KOALA).
XL_LAST_BLOCK = f"{UNET}input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight"
# Marker keys of EDM noise schedules, without weights, as ComfyUI reads them.
EDM_KEYS = {"edm_mean", "edm_vpred.sigma_max"}
VIDEO_KEY = ".time_stack."

# Other files in model folders, by a part of a key; the first match counts.
OTHER_FORMATS = (
    ("lora", "a LoRA, not a checkpoint"),
    (".hada_w1_", "a LoRA (LoHa), not a checkpoint"),
    (".lokr_w", "a LoRA (LoKr), not a checkpoint"),
    ("control_model.", "a ControlNet, not a checkpoint"),
    ("controlnet_", "a ControlNet, not a checkpoint"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("clip_txt_mapper.", "a Stable Cascade model"),
    ("distilled_guidance_layer.", "a Chroma model"),
    ("individual_token_refiner.", "a HunyuanVideo model"),
    ("double_blocks.", "a Flux model"),
    ("double_layers.", "an AuraFlow model"),
    ("mlp_t5.", "a Hunyuan-DiT model"),
    ("t_block.", "a PixArt model"),
    ("txt_norm.", "a Qwen-Image model"),
    ("head.modulation", "a Wan model"),
    ("cap_embedder.", "a Lumina model"),
    ("emb_params", "a textual inversion embedding, not a checkpoint"),
    ("decoder.conv_in.", "a VAE, not a checkpoint"),
    ("text_model.", "a text encoder, not a checkpoint"),
    ("input_blocks.", "a UNet alone, not a checkpoint"),
    ("down_blocks.", "a part of a diffusers folder, not a checkpoint"),
)


def detect_checkpoint(file: Path, architecture: Path | None = None) -> Path:
    """Return the folder of diffusers configurations that a checkpoint's weights fit.

    architecture: the folder that they must fit; None detects it.

    Raises UserError, naming the kind of model, for unsupported ones.
    """
    known = ARCHITECTURES if architecture is None else (architecture,)
    with safe_open(file, framework="pt") as weights:
        names = original_keys(weights.keys(), known)
        keys = set(names)
        prompt_layer = next((key for key in sorted(keys) if key.endswith(PROMPT_LAYER)), None)
        if FIRST_LAYER not in keys or prompt_layer is None:
            raise _unsupported(file, _other_format(keys))
        width = weights.get_slice(names[prompt_layer]).get_shape()[1]
        channels = weights.get_slice(names[FIRST_LAYER]).get_shape()[1]
    config = architecture or CONFIG_BY_PROMPT_WIDTH.get(width)
    if any(VIDEO_KEY in key for key in keys):
        raise _unsupported(file, "a Stable Video Diffusion model")
    unet = read_json(config / "unet" / "config.json") if config else {}
    if config is None or width != unet["cross_attention_dim"]:
        refiner = width == REFINER_PROMPT_WIDTH
        raise _unsupported(file, "an SDXL refiner" if refiner else "of an unknown kind")
    if channels not in (unet["in_channels"], inpainting_channels(unet["in_channels"])):
        raise _unsupported(
            file, f"made for editing, because its UNet has {channels} input channels"
        )
    if keys & EDM_KEYS:
        raise _unsupported(file, "made for EDM's noise schedule (Playground 2.5, CosXL)")
    if config == XL and XL_LAST_BLOCK not in keys:
        raise _unsupported(file, "a distilled variant of Stable Diffusion XL, or incomplete")
    return config


def _other_format(keys: set[str]) -> str:
    return next(
        (name for part, name in OTHER_FORMATS if any(part in key for key in keys)),
        "no Stable Diffusion checkpoint",
    )


def _unsupported(file: Path, what: str) -> UserError:
    return UserError(
        f"{file.name} is {what}: choose a plain checkpoint of Stable Diffusion 1.x, 2.x or XL."
    )
