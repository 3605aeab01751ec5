"""Load Stable Diffusion from a diffusers folder: one subfolder per component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel

from ...shared.check_model import check_model_folder
from ...shared.errors import UserError
from ...shared.weight_files import find_variant
from ..diffusion_model import Diffusion
from .model_parts import (
    OPEN_CLIP_PAD,
    EncoderAndTokenizer,
    assemble_model,
    load_tokenizer,
    read_json,
)

PIPELINE, XL_PIPELINE = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
TASKS = ("Img2Img", "Inpaint")
"""Pipelines of these tasks have the same components, such as StableDiffusionInpaintPipeline."""


def load_diffusers_folder(folder: Path, name: str, dtype: torch.dtype) -> Diffusion:
    """Load a saved diffusers pipeline for Stable Diffusion 1.x, 2.x or XL, without safety checker.

    Raises UserError when a component is missing, damaged or of another kind.
    """
    pipeline = _pipeline_class(folder)
    encoders = [_load_text_encoder(CLIPTextModel, folder, "", dtype)]
    if pipeline == XL_PIPELINE:
        encoders.append(_load_text_encoder(CLIPTextModelWithProjection, folder, "_2", dtype))
    return assemble_model(
        _load_part(UNet2DConditionModel, folder / "unet", "diffusion_pytorch_model", dtype),
        _load_part(AutoencoderKL, folder / "vae", "diffusion_pytorch_model", dtype),
        encoders,
        read_json(folder / "scheduler" / "scheduler_config.json"),
        source=str(folder),
        name=name,
    )


def _pipeline_class(folder: Path) -> str:
    """PIPELINE or XL_PIPELINE, by model_index.json; UserError for another model."""
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} contains no model_index.json: choose a diffusers folder of Stable Diffusion."
        )
    name = str(read_json(folder / "model_index.json").get("_class_name"))
    kind = name
    for task in TASKS:
        kind = kind.replace(f"{task}Pipeline", "Pipeline")
    if kind not in (PIPELINE, XL_PIPELINE):
        raise UserError(
            f"{folder} contains a {name}, which this node cannot use: choose a {PIPELINE} "
            f"(Stable Diffusion 1.x or 2.x) or a {XL_PIPELINE}."
        )
    return kind


def _load_text_encoder(
    model_class: type[Any], folder: Path, suffix: str, dtype: torch.dtype
) -> EncoderAndTokenizer:
    encoder = _load_part(model_class, folder / f"text_encoder{suffix}", "model", dtype)
    tokenizer = load_tokenizer(folder / f"tokenizer{suffix}")
    if not (folder / f"tokenizer{suffix}" / "tokenizer_config.json").is_file():
        length = encoder.config.max_position_embeddings
        pad = {"pad_token": OPEN_CLIP_PAD} if encoder.config.hidden_act == "gelu" else {}
        tokenizer = load_tokenizer(folder / f"tokenizer{suffix}", model_max_length=length, **pad)
    return encoder, tokenizer


def _load_part(model_class: type[Any], folder: Path, stem: str, dtype: torch.dtype) -> Any:
    """Load one component; UserError if its weights do not fit its configuration."""
    variant = find_variant(folder, stem)
    read_json(folder / "config.json")
    check_model_folder(folder)
    dtype_argument = "dtype" if issubclass(model_class, PreTrainedModel) else "torch_dtype"
    try:
        module, report = model_class.from_pretrained(
            folder,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **{dtype_argument: dtype},
        )
    except Exception as reason:  # diffusers raises errors of all kinds for damaged files
        raise UserError(
            f"The weights in {folder} do not fit its config.json: download the model again."
        ) from reason
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        example = missing[0] if missing else "shapes"
        raise UserError(
            f"The weights in {folder} do not fit its config.json ({example}): "
            "download the model again."
        )
    return module
