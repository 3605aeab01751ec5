"""Load Stable Diffusion from one checkpoint file in the original (LDM) layout, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import safe_open

from ...shared.json_files import parse_json
from ...shared.weight_files import require_safetensors
from ..diffusion_model import Diffusion
from .checkpoint_keys import read_checkpoint
from .detect_checkpoint import FIRST_LAYER, SD2, detect_checkpoint
from .ldm_keys import UNET
from .model_parts import assemble_model, incomplete_error, read_json
from .text_encoders import load_text_encoders

LAST_NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
SCHEDULER_ENTRY = "scheduler_config"
"""Entry of the header of our own checkpoints: the whole noise schedule, as JSON."""
# Marker keys of checkpoints, without weights, as ComfyUI reads them.
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
    weights = read_checkpoint(file, (architecture,), dtype)
    scheduler = read_json(architecture / "scheduler" / "scheduler_config.json")
    channels = weights[FIRST_LAYER].shape[1]
    unet = _load_part(
        UNet2DConditionModel, weights, file, architecture, "unet", dtype, in_channels=channels
    )
    if architecture == SD2:
        bias_std = float(weights[LAST_NORM].float().std(correction=0))
        if bias_std > V_PREDICTION_BIAS_STD:
            scheduler["prediction_type"] = "v_prediction"
            unet.register_to_config(sample_size=96)
    if V_PRED_KEY in weights:
        scheduler["prediction_type"] = "v_prediction"
        if ZTSNR_KEY in weights:  # Lin et al. 2024, sections 3.1 and 3.3
            scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with safe_open(file, framework="pt") as header:
        saved = (header.metadata() or {}).get(SCHEDULER_ENTRY)
    return assemble_model(
        unet,
        _load_part(AutoencoderKL, weights, file, architecture, "vae", dtype),
        load_text_encoders(file, weights, architecture, dtype, vocabulary),
        _scheduler_entry(saved) or scheduler,
        source=str(file),
        name=file.stem,
    )


def _scheduler_entry(text: str | None) -> dict[str, Any]:
    try:
        entry = parse_json(text or "{}")
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _load_part(
    model_class: type[Any],
    weights: dict[str, torch.Tensor],
    file: Path,
    architecture: Path,
    part: str,
    dtype: torch.dtype,
    **config: int,
) -> Any:
    try:
        module = model_class.from_single_file(
            weights,
            config=str(architecture),
            subfolder=part,
            torch_dtype=dtype,
            local_files_only=True,
            **config,
        )
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError) as reason:
        raise incomplete_error(file, part) from reason
    # Weights that the file lacks stay on the meta device.
    if any(parameter.is_meta for parameter in module.parameters()):
        raise incomplete_error(file, part)
    return module
