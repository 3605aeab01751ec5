"""Stable Diffusion as a diffusers folder: one subfolder for each part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel

from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from .model_parts import Reader, assemble_model, load_tokenizer, read_json, require_whole

PIPELINE, XL_PIPELINE = "StableDiffusionPipeline", "StableDiffusionXLPipeline"


def load_diffusers_folder(folder: Path, name: str, dtype: torch.dtype) -> Diffusion:
    """Load a folder that diffusers' pipeline for Stable Diffusion 1.x, 2.x or XL saved.

    No safety checker is loaded.

    Raises UserError when a part is missing, damaged or of another kind.
    """
    pipeline = _require_stable_diffusion(folder)
    readers = [_reader(CLIPTextModel, folder, "", dtype)]
    if pipeline == XL_PIPELINE:
        readers.append(_reader(CLIPTextModelWithProjection, folder, "_2", dtype))
    return assemble_model(
        _load(UNet2DConditionModel, folder / "unet", "diffusion_pytorch_model", dtype),
        _load(AutoencoderKL, folder / "vae", "diffusion_pytorch_model", dtype),
        readers,
        read_json(folder / "scheduler" / "scheduler_config.json"),
        source=str(folder),
        name=name,
    )


def _require_stable_diffusion(folder: Path) -> str:
    """The name of the pipeline that saved the folder."""
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no model_index.json: choose a diffusers folder of Stable Diffusion."
        )
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind not in (PIPELINE, XL_PIPELINE):
        raise UserError(
            f"{folder} holds a {kind}, which this node cannot use: choose a {PIPELINE} "
            f"(Stable Diffusion 1.x or 2.x) or a {XL_PIPELINE}."
        )
    return str(kind)


def _reader(kind: type[Any], folder: Path, number: str, dtype: torch.dtype) -> Reader:
    encoder = _load(kind, folder / f"text_encoder{number}", "model", dtype)
    return encoder, load_tokenizer(folder / f"tokenizer{number}")


def _load(kind: type[Any], folder: Path, stem: str, dtype: torch.dtype) -> Any:
    """Load one part of a diffusers folder with every weight in its place."""
    variant = _weight_variant(folder, stem)
    read_json(folder / "config.json")
    precision = "dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype"
    try:
        module, report = kind.from_pretrained(
            folder,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **{precision: dtype},
        )
    except (OSError, ValueError, RuntimeError, TypeError) as reason:
        raise UserError(
            f"The weights in {folder} do not fit its config.json: fetch the model again."
        ) from reason
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        example = missing[0] if missing else "shapes"
        raise UserError(
            f"The weights in {folder} do not fit its config.json ({example}): "
            "fetch the model again."
        )
    return module


def _weight_variant(folder: Path, stem: str) -> str | None:
    """The file name's middle part ("fp16"), None for the plain name. The file must be whole."""
    for variant in (None, "fp16"):
        file = folder / (f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors")
        if file.is_file():
            require_whole(file)
            return variant
    raise UserError(
        f"{folder} holds no {stem}.safetensors: only safetensors are read, so convert or fetch it."
    )
