"""Export a Stable Diffusion: text encoder, UNet and both ways through the VAE."""

from __future__ import annotations

import copy
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
from .export_readme import write_readme
from .tolerance import Precision
from .write_parts import BEFORE, OnStep, versions, write_parts

KIND, KIND_XL = "stable-diffusion", "stable-diffusion-xl"

STEPS = 20
"""Of the schedule that comes with an export."""


@torch.inference_mode(False)
def export_diffusion(
    diffusion: Diffusion,
    folder: Path,
    format_: str,
    precision: Precision,
    images: torch.Tensor,
    on_step: OnStep = lambda done, total: None,
) -> Manifest:
    """Write a model as `folder`, which is whole or not there; return what its manifest says.

    images: pictures [B,H,W,3], float 0..1, on which every graph is compared with PyTorch.

    Raises UserError for another format than "onnx", when the model is no plain one, there is
    no picture, the format's packages are missing, the folder exists, the disk is full, or a graph
    is further off than its precision allows.
    """
    if format_ != "onnx":
        raise UserError("Stable Diffusion is exported as ONNX only: choose the format onnx.")
    require_unquantized(diffusion.modules, diffusion.name, BEFORE)
    check_images(images)
    diffusion = _in_float(diffusion)
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
    """What a program without transformers and diffusers has to know to feed the graphs.

    tokenizers: for each folder with one, the `length` in tokens that its text encoder reads, and
    `pad`, the token that fills up a shorter prompt. frame: what XL's UNet is told as time_ids, [6].
    schedule: for each of STEPS steps of DDIM its timestep, and the factors of the latents and of
    the UNet's prediction in the sum that is the next step's latents.
    """
    one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    keep, add = (make_scheduler("ddim", diffusion.scheduler_config) for _ in range(2))
    keep.set_timesteps(STEPS)
    add.set_timesteps(STEPS)
    schedule = [
        [
            int(timestep),
            float(keep.step(none, timestep, one).prev_sample),
            float(add.step(one, timestep, none).prev_sample),
        ]
        for timestep in keep.timesteps
    ]
    tokenizers = {
        name: {"length": each.model_max_length, "pad": each.pad_token_id}
        for name, each in _tokenizers(diffusion)
    }
    told = {"tokenizers": tokenizers, "schedule": schedule}
    if diffusion.text_encoder_2 is not None:
        told["frame"] = add_time_ids(diffusion.resolution, diffusion.resolution).tolist()
    return told


def _tokenizers(diffusion: Diffusion) -> list[tuple[str, Any]]:
    """The model's one or two, by the names of their folders."""
    both = (("tokenizer", diffusion.tokenizer), ("tokenizer_2", diffusion.tokenizer_2))
    return [(name, each) for name, each in both if each is not None]


def _in_float(diffusion: Diffusion) -> Diffusion:
    """The model in float32 on the CPU: itself, or a copy."""
    if diffusion.dtype == torch.float32 and diffusion.device.type == "cpu":
        return diffusion
    modules: dict[str, Any] = {
        name: copy.deepcopy(module).cpu().float()
        for name, module in diffusion.modules.named_children()
    }
    return dataclasses.replace(diffusion, **modules)
