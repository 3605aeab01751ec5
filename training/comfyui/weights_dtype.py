"""The precision of a model file."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Names of dtypes in safetensors files."""
SCALES = ("scale_weight", "weight_scale", "comfy_quant", "scaled_fp8")
"""Names of what ComfyUI's kinds of quantized files have next to the weights."""


def weights_dtype(file: Path) -> torch.dtype | None:
    """Return the dtype of most weights of a safetensors file; None for a quantized or other file.

    Of a quantized file ComfyUI knows by its scales which layers are.
    """
    sizes: Counter[str] = Counter()
    try:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                if name.endswith(SCALES):
                    return None
                part = weights.get_slice(name)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    except (SafetensorError, OSError):
        return None  # a folder, or an older kind of file
    return DTYPES.get(max(sizes, key=sizes.__getitem__, default=""))
