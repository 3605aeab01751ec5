"""Load Stable Diffusion from one checkpoint file in the original (LDM) layout, offline."""

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
from .model_parts import assemble_model, incomplete_error, read_json, require_safetensors
from .text_encoders import load_text_encoders

LAST_NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
# Marker keys of XL checkpoints, without weights, as ComfyUI reads them.
V_PRED_KEY, ZTSNR_KEY = "v_pred", "ztsnr"
# 768-pixel models of the 2.x family use v-prediction, which is only visible in the larger spread of
# the last block's biases (ComfyUI's heuristic).
V_PREDICTION_BIAS_STD = 0.09


def load_checkpoint(
    file: Path, dtype: torch.dtype, vocabulary: Path, architecture: Path | None = None
) -> Diffusion:
    """Load a Stable Diffusion 1.x, 2.x or XL checkpoint in the original layout.

    dtype: of the weights in memory.
    vocabulary: folder with CLIP's vocab.json and merges.txt, which a checkpoint does not contain.
    architecture: folder of diffusers configurations that the weights must fit; None detects it.

    Raises UserError for a damaged or incomplete file and for another kind of model.
    """
    require_safetensors(file)
    architecture = detect_checkpoint(file, architecture)
    weights = load_file(file)
    scheduler = read_json(architecture / "scheduler" / "scheduler_config.json")
    unet = _load_part(UNet2DConditionModel, weights, file, architecture, "unet", dtype)
    if architecture == SD2:
        bias_std = float(weights[LAST_NORM].float().std(correction=0))
        if bias_std > V_PREDICTION_BIAS_STD:
            scheduler["prediction_type"] = "v_prediction"
            unet.register_to_config(sample_size=96)
    if V_PRED_KEY in weights:
        scheduler["prediction_type"] = "v_prediction"
        if ZTSNR_KEY in weights:  # Lin et al. 2024, sections 3.1 and 3.3
            scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return assemble_model(
        unet,
        _load_part(AutoencoderKL, weights, file, architecture, "vae", dtype),
        load_text_encoders(file, weights, architecture, dtype, vocabulary),
        scheduler,
        source=str(file),
        name=file.stem,
    )


def _load_part(
    model_class: type[Any],
    weights: dict[str, torch.Tensor],
    file: Path,
    architecture: Path,
    part: str,
    dtype: torch.dtype,
) -> Any:
    try:
        module = model_class.from_single_file(
            weights,
            config=str(architecture),
            subfolder=part,
            torch_dtype=dtype,
            local_files_only=True,
        )
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError) as reason:
        raise incomplete_error(file, part) from reason
    # Weights that the file lacks stay on the meta device.
    if any(parameter.is_meta for parameter in module.parameters()):
        raise incomplete_error(file, part)
    return module
