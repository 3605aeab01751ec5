"""Export a Stable Diffusion: text encoders, UNet, VAE encoder and VAE decoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.sample.schedulers import make_scheduler
from ..diffusion.sample.unet_forward import add_time_ids
from ..quantize.quantize_weights import require_unquantized
from ..shared.errors import UserError
from ..shared.images import check_images
from .diffusion_parts import diffusion_parts
from .export_folder import Json, Manifest, new_export_folder
from .export_part import to_cpu_float32
from .export_readme import write_readme
from .tolerance import Precision
from .write_parts import UNQUANTIZED_REMEDY, OnStep, versions, write_parts

KIND, KIND_XL = "stable-diffusion", "stable-diffusion-xl"

STEPS = 20
"""Steps of the DDIM schedule in an export."""


@torch.inference_mode(False)
def export_diffusion(
    diffusion: Diffusion,
    folder: Path,
    format_: str,
    precision: Precision,
    images: torch.Tensor,
    on_step: OnStep = lambda done, total: None,
) -> Manifest:
    """Export a model into `folder`, which is written atomically; return the manifest.

    images: [B,H,W,C], float 0..1, on which every graph is compared with PyTorch.

    Raises UserError for another format than "onnx", when the model is quantized, the batch is
    empty, the format's packages are missing, the folder exists or cannot be written, or the error
    of a graph is above its tolerance.
    """
    if format_ != "onnx":
        raise UserError("Stable Diffusion is exported as ONNX only: choose the format onnx.")
    if diffusion.is_inpainting_model:
        raise UserError(f"{diffusion.name} is an inpainting model: choose a plain model to export.")
    require_unquantized(diffusion.modules, diffusion.name, UNQUANTIZED_REMEDY)
    check_images(images)
    modules: dict[str, Any] = {
        name: to_cpu_float32(module) for name, module in diffusion.modules.named_children()
    }
    diffusion = dataclasses.replace(diffusion, **modules)
    with new_export_folder(folder) as draft:
        with torch.no_grad():
            written = write_parts(
                diffusion_parts(diffusion, images), draft, format_, precision, on_step
            )
        for name, tokenizer in _tokenizers(diffusion):
            tokenizer.save_pretrained(draft / name)
        make_scheduler("ddim", diffusion.scheduler_config).save_pretrained(draft / "scheduler")
        manifest = Manifest(
            kind=KIND if diffusion.text_encoder_2 is None else KIND_XL,
            format=format_,
            precision=precision,
            made_from=diffusion.name,
            parameters=sum(weight.numel() for weight in diffusion.modules.parameters()),
            parts=written,
            made_with=versions(format_),
            compared={"pictures": len(images)},
            reads=runtime_settings(diffusion),
        )
        manifest.write(draft)
        write_readme(manifest, draft)
    return manifest


def runtime_settings(diffusion: Diffusion) -> Json:
    """Return what a program without transformers and diffusers needs to run the graphs.

    tokenizers: for each tokenizer folder the sequence `length` of its text encoder, and `pad`, the
    padding token. frame: the time_ids of XL's UNet, [6]. schedule: for each of STEPS DDIM steps
    [timestep, a, b], where the next latents are a * latents + b * prediction.
    """
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    of_latents, of_prediction = (
        make_scheduler("ddim", diffusion.scheduler_config) for _ in range(2)
    )
    of_latents.set_timesteps(STEPS)
    of_prediction.set_timesteps(STEPS)
    schedule = [
        [
            int(timestep),
            float(of_latents.step(zero, timestep, one).prev_sample),
            float(of_prediction.step(one, timestep, zero).prev_sample),
        ]
        for timestep in of_latents.timesteps
    ]
    tokenizers = {
        name: {"length": tokenizer.model_max_length, "pad": tokenizer.pad_token_id}
        for name, tokenizer in _tokenizers(diffusion)
    }
    settings: Json = {"tokenizers": tokenizers, "schedule": schedule}
    if diffusion.text_encoder_2 is not None:
        settings["frame"] = add_time_ids(diffusion.resolution, diffusion.resolution).tolist()
    return settings


def _tokenizers(diffusion: Diffusion) -> list[tuple[str, Any]]:
    """Return the one or two tokenizers with the names of their folders."""
    tokenizers = (("tokenizer", diffusion.tokenizer), ("tokenizer_2", diffusion.tokenizer_2))
    return [(name, each) for name, each in tokenizers if each is not None]
