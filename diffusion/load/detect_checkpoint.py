"""What kind of model a checkpoint file holds, told by its head and without reading a weight."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from ...shared.errors import UserError
from .ldm_keys import UNET
from .model_parts import read_json

CONFIGS = Path(__file__).parent / "configs"
SD1, SD2, XL = CONFIGS / "sd1", CONFIGS / "sd2", CONFIGS / "sdxl"
FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
PROMPT_LAYER = "attn2.to_k.weight"
# By the width of the prompts that the UNet reads.
KINDS = {768: SD1, 1024: SD2, 2048: XL}
REFINER = 1280
# What XL's smaller relatives (SSD-1B, Vega, KOALA) have not.
XL_LAST_BLOCK = f"{UNET}input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight"
# What a file says of its noise by keys that are no weights, as ComfyUI reads them.
OTHER_NOISE = {"edm_mean", "edm_vpred.sigma_max"}
VIDEO = ".time_stack."

# What else lies in model folders, by a part of a key; the first one that is found counts.
OTHERS = (
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
    ("emb_params", "a learned word, not a checkpoint"),
    ("decoder.conv_in.", "a VAE, not a checkpoint"),
    ("text_model.", "a text encoder, not a checkpoint"),
    ("input_blocks.", "a UNet alone, not a checkpoint"),
    ("down_blocks.", "a part of a diffusers folder, not a checkpoint"),
)


def detect_checkpoint(file: Path, architecture: Path | None = None) -> Path:
    """Return the folder of diffusers' configurations that a checkpoint's weights fit.

    architecture: the folder that they have to fit; None finds that of the file's own kind.

    Raises UserError that names the kind of a model that is another one.
    """
    with safe_open(file, framework="pt") as weights:
        keys = set(weights.keys())
        prompt_layer = next((key for key in sorted(keys) if key.endswith(PROMPT_LAYER)), None)
        if FIRST_LAYER not in keys or prompt_layer is None:
            raise _unusable(file, _other(keys))
        width = weights.get_slice(prompt_layer).get_shape()[1]
        channels = weights.get_slice(FIRST_LAYER).get_shape()[1]
    found = architecture or KINDS.get(width)
    if any(VIDEO in key for key in keys):
        raise _unusable(file, "a Stable Video Diffusion model")
    unet = read_json(found / "unet" / "config.json") if found else {}
    if found is None or width != unet["cross_attention_dim"]:
        raise _unusable(file, "an SDXL refiner" if width == REFINER else "of an unknown kind")
    if channels != unet["in_channels"]:
        raise _unusable(
            file, f"made for inpainting or editing, for its UNet takes {channels} channels"
        )
    if keys & OTHER_NOISE:
        raise _unusable(file, "made for EDM's noise levels (Playground 2.5, CosXL)")
    if found == XL and XL_LAST_BLOCK not in keys:
        raise _unusable(file, "a smaller relative of Stable Diffusion XL, or not whole")
    return found


def _other(keys: set[str]) -> str:
    return next(
        (name for mark, name in OTHERS if any(mark in key for key in keys)),
        "no Stable Diffusion checkpoint",
    )


def _unusable(file: Path, what: str) -> UserError:
    return UserError(
        f"{file.name} is {what}: choose a plain checkpoint of Stable Diffusion 1.x, 2.x or XL."
    )
