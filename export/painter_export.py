"""Export a Stable Diffusion: text encoder, UNet and both ways through the VAE."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

from ..diffusion.model import Diffusion
from ..errors import MendableError
from ..quantize.weights import require_plain
from .folder import Manifest, whole_folder
from .painter_parts import painting
from .precision import Precision
from .readme import write_readme
from .write import BEFORE, OnStep, versions, write_parts

KIND = "stable-diffusion"


@torch.inference_mode(False)
def export_painter(
    diffusion: Diffusion,
    folder: Path,
    format_: str,
    precision: Precision,
    images: torch.Tensor,
    on_step: OnStep = lambda done, total: None,
) -> Manifest:
    """Write a model as `folder`, which is whole or not there; return what its manifest says.

    images: pictures [B,H,W,3], float 0..1, on which every graph is compared with PyTorch.

    Raises MendableError for another format than "onnx", for Stable Diffusion XL, when the model is
    no plain one, the format's packages are missing, the folder exists, the disk is full, or a graph
    is further off than its precision allows.
    """
    if format_ != "onnx":
        raise MendableError("Stable Diffusion is exported as ONNX only: choose the format onnx.")
    if diffusion.text_encoder_2 is not None:
        raise MendableError(
            f"{diffusion.name} is a Stable Diffusion XL, which is not exported yet: choose a model "
            "of Stable Diffusion 1.x or 2.x."
        )
    require_plain(diffusion.modules, diffusion.name, BEFORE)
    diffusion = _in_float(diffusion)
    with whole_folder(folder) as draft:
        with torch.no_grad():
            written = write_parts(painting(diffusion, images), draft, format_, precision, on_step)
        diffusion.tokenizer.save_pretrained(draft / "tokenizer")
        DDIMScheduler.from_config(diffusion.scheduler_config).save_pretrained(draft / "scheduler")
        manifest = Manifest(
            kind=KIND,
            format=format_,
            precision=precision,
            made_from=diffusion.name,
            parameters=sum(weight.numel() for weight in diffusion.modules.parameters()),
            parts=written,
            made_with=versions(format_),
            compared={"pictures": len(images)},
        )
        manifest.write(draft)
        write_readme(manifest, draft)
    return manifest


def _in_float(diffusion: Diffusion) -> Diffusion:
    """The model in float32 on the CPU: itself, or a copy."""
    if diffusion.dtype == torch.float32 and diffusion.device.type == "cpu":
        return diffusion
    modules: dict[str, Any] = {
        name: copy.deepcopy(module).cpu().float()
        for name, module in diffusion.modules.named_children()
    }
    return dataclasses.replace(diffusion, **modules)
