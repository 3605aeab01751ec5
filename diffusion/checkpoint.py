"""Stable Diffusion in one file, as ComfyUI's checkpoints folder holds it, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from ..errors import MendableError
from . import open_clip
from .model import Diffusion
from .parts import assemble, load_tokenizer, read_json, require_whole

CONFIGS = Path(__file__).parent / "configs"
SD1, SD2 = CONFIGS / "sd1", CONFIGS / "sd2"
UNET = "model.diffusion_model."
FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
LAST_NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
PROMPT_LAYER = "attn2.to_k.weight"
TEXT = "cond_stage_model.transformer."
# By the width of the prompts that the UNet reads.
KINDS = {768: SD1, 1024: SD2}
OTHERS = {1280: "an SDXL refiner", 2048: "Stable Diffusion XL"}
# The 768-pixel models of the 2.x family predict v, and nothing in their files says so but this:
# training for it spread the last block's biases (ComfyUI's rule).
V_SPREAD = 0.09


def load_checkpoint(
    file: Path, dtype: torch.dtype, vocabulary: Path, architecture: Path | None = None
) -> Diffusion:
    """Load a Stable Diffusion 1.x or 2.x checkpoint in the original layout.

    vocabulary: folder with CLIP's vocab.json and merges.txt, which a checkpoint does not carry.
    architecture: folder of diffusers configurations that the weights must fit; None finds the
        file's own kind.

    Raises MendableError for a damaged file and for one that holds another kind of model, or
    not all of it.
    """
    require_whole(file)
    architecture = _require_kind(file, architecture)
    text_config = CLIPTextConfig.from_pretrained(architecture / "text_encoder")
    tokenizer = load_tokenizer(
        vocabulary,
        model_max_length=text_config.max_position_embeddings,
        **({"pad_token": "!"} if architecture == SD2 else {}),  # OpenCLIP pads with token 0
    )
    weights = load_file(file)
    scheduler = read_json(architecture / "scheduler" / "scheduler_config.json")
    unet = _convert(UNet2DConditionModel, weights, file, architecture, "unet", dtype)
    if architecture == SD2 and float(weights[LAST_NORM].float().std(correction=0)) > V_SPREAD:
        scheduler["prediction_type"] = "v_prediction"
        unet.register_to_config(sample_size=96)
    return assemble(
        unet,
        _convert(AutoencoderKL, weights, file, architecture, "vae", dtype),
        _text_encoder(weights, file, text_config, dtype),
        tokenizer,
        scheduler,
        source=str(file),
        name=file.stem,
    )


def _require_kind(file: Path, architecture: Path | None) -> Path:
    """Look at the layers' shapes, which are in the file's head, and say what kind it is."""
    with safe_open(file, framework="pt") as weights:
        keys = set(weights.keys())
        prompt_layer = next((key for key in sorted(keys) if key.endswith(PROMPT_LAYER)), None)
        if FIRST_LAYER not in keys or prompt_layer is None:
            what = "a LoRA" if any("lora" in key for key in keys) else "something else"
            raise MendableError(
                f"{file.name} is {what}, not a checkpoint: choose a Stable Diffusion 1.x or 2.x "
                "one."
            )
        width = weights.get_slice(prompt_layer).get_shape()[1]
        channels = weights.get_slice(FIRST_LAYER).get_shape()[1]
    found = architecture or KINDS.get(width)
    unet = read_json(found / "unet" / "config.json") if found else {}
    if found is None or width != unet["cross_attention_dim"]:
        kind = OTHERS.get(width, "of an unknown kind")
        raise MendableError(
            f"{file.name} is {kind}: choose a Stable Diffusion 1.x or 2.x checkpoint."
        )
    if channels != unet["in_channels"]:
        raise MendableError(
            f"{file.name} is made for inpainting or editing, for its UNet takes {channels} "
            "channels: choose a plain Stable Diffusion 1.x or 2.x checkpoint."
        )
    return found


def _convert(
    kind: type[Any],
    weights: dict[str, torch.Tensor],
    file: Path,
    architecture: Path,
    part: str,
    dtype: torch.dtype,
) -> Any:
    try:
        module = kind.from_single_file(
            weights,
            config=str(architecture),
            subfolder=part,
            torch_dtype=dtype,
            local_files_only=True,
        )
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError) as reason:
        raise _incomplete(file, part) from reason
    # What a file lacks is left without storage.
    if any(parameter.is_meta for parameter in module.parameters()):
        raise _incomplete(file, part)
    return module


def _text_encoder(
    weights: dict[str, torch.Tensor], file: Path, config: CLIPTextConfig, dtype: torch.dtype
) -> CLIPTextModel:
    encoder = CLIPTextModel(config).to(dtype)
    named = open_clip.text_weights(weights) or {
        key.removeprefix(TEXT).removeprefix("text_model."): value for key, value in weights.items()
    }
    # Releases of transformers differ in whether the keys start with "text_model.".
    ours = {key.removeprefix("text_model."): key for key in encoder.state_dict()}
    try:
        encoder.load_state_dict({ours[key]: named[key] for key in named.keys() & ours.keys()})
    except RuntimeError as reason:
        raise _incomplete(file, "text encoder") from reason
    return encoder


def _incomplete(file: Path, part: str) -> MendableError:
    return MendableError(
        f"{file.name} does not hold a whole Stable Diffusion {part}: choose a full checkpoint."
    )
