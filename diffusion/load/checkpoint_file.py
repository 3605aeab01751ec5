"""Stable Diffusion in one file, as ComfyUI's checkpoints folder holds it, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors.torch import load_file

from ..diffusion_model import Diffusion
from .detect_checkpoint import SD2, detect_checkpoint
from .ldm_keys import UNET
from .model_parts import assemble_model, incomplete, read_json, require_whole
from .text_encoders import read_text_encoders

LAST_NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
# What an XL file says of its model by keys that are no weights, as ComfyUI reads them.
PREDICTS_V, ZERO_SNR = "v_pred", "ztsnr"
# The 768-pixel models of the 2.x family predict v, and nothing in their files says so but this:
# training for it spread the last block's biases (ComfyUI's rule).
V_SPREAD = 0.09


def load_checkpoint(
    file: Path, dtype: torch.dtype, vocabulary: Path, architecture: Path | None = None
) -> Diffusion:
    """Load a Stable Diffusion 1.x, 2.x or XL checkpoint in the original layout.

    vocabulary: folder with CLIP's vocab.json and merges.txt, which a checkpoint does not carry.
    architecture: folder of diffusers configurations that the weights must fit; None finds the
        file's own kind.

    Raises UserError for a damaged file and for one that holds another kind of model, or
    not all of it.
    """
    require_whole(file)
    architecture = detect_checkpoint(file, architecture)
    weights = load_file(file)
    scheduler = read_json(architecture / "scheduler" / "scheduler_config.json")
    unet = _convert(UNet2DConditionModel, weights, file, architecture, "unet", dtype)
    if architecture == SD2 and float(weights[LAST_NORM].float().std(correction=0)) > V_SPREAD:
        scheduler["prediction_type"] = "v_prediction"
        unet.register_to_config(sample_size=96)
    if PREDICTS_V in weights:
        scheduler["prediction_type"] = "v_prediction"
        if ZERO_SNR in weights:  # Lin et al. 2024, sections 3.1 and 3.3
            scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return assemble_model(
        unet,
        _convert(AutoencoderKL, weights, file, architecture, "vae", dtype),
        read_text_encoders(file, weights, architecture, dtype, vocabulary),
        scheduler,
        source=str(file),
        name=file.stem,
    )


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
        raise incomplete(file, part) from reason
    # What a file lacks is left without storage.
    if any(parameter.is_meta for parameter in module.parameters()):
        raise incomplete(file, part)
    return module
