"""Write a model file in the kinds of quantized files that ComfyUI opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FLOAT8 = torch.float8_e4m3fn
KINDS = ("fp8", "scaled fp8", "mixed fp8")
"""All weights in float8; linear layers in float8 with a scale, in the old way and with the formats
in the metadata, as since ComfyUI 0.3.70."""
CORE_FORMATS = (
    "float8_e5m2",
    "nvfp4",
    "mxfp8",
    "int8_tensorwise",
    "convrot_w4a4",
    "asym_w4a8_int8",
)
"""Names in ComfyUI's QUANT_ALGOS; none of them in 0.3.75, all in 0.33."""


def write_quantized(source: Path, target: Path, kind: str, inside: str) -> None:
    """Write a diffusion model's file in one of KINDS or CORE_FORMATS.

    `inside` begins the names of its blocks. A format of ComfyUI is written by its own layers.
    """
    weights, formats = load_file(source), {}
    if kind == "fp8":
        save_file({name: value.to(FLOAT8) for name, value in weights.items()}, target)
        return
    for name, value in list(weights.items()):
        layer = name.removesuffix(".weight")
        if layer == name or value.ndim != 2 or not name.startswith(inside):
            continue
        if kind in CORE_FORMATS:
            del weights[name]
            weights |= _core_state(value, kind, f"{layer}.")
            continue
        scale = value.abs().amax().float() / torch.finfo(FLOAT8).max
        weights[name] = (value.float() / scale).to(FLOAT8)
        weights[f"{layer}.{'scale_weight' if kind == 'scaled fp8' else 'weight_scale'}"] = scale
        formats[layer] = {"format": "float8_e4m3fn"}
    if kind == "scaled fp8":
        weights["scaled_fp8"] = torch.zeros(2, dtype=FLOAT8)
    layers = json.dumps({"format_version": "1.0", "layers": formats})
    metadata = {"_quantization_metadata": layers} if kind == "mixed fp8" else None
    save_file(weights, target, metadata)


def _core_state(weight: torch.Tensor, name: str, prefix: str) -> dict[str, torch.Tensor]:
    """Return what ComfyUI saves of a linear layer without bias in a format of QUANT_ALGOS."""
    import comfy.ops
    import comfy.quant_ops

    layout = comfy.quant_ops.QUANT_ALGOS[name]["comfy_tensor_layout"]
    # Rotations of 64 inputs suit layers whose width is no multiple of the default, 256.
    settings: dict[str, Any] = {}
    if name in ("convrot_w4a4", "asym_w4a8_int8"):
        settings["convrot_groupsize"] = 64
    if name.startswith(("float8", "int8")):
        settings["scale"] = "recalculate"
    quantized = comfy.quant_ops.QuantizedTensor.from_float(weight, layout, **settings)
    layer = comfy.ops.mixed_precision_ops().Linear(*weight.shape[::-1], bias=False)
    layer.weight = torch.nn.Parameter(quantized, requires_grad=False)
    layer.quant_format = name
    return {key: value.contiguous() for key, value in layer.state_dict(prefix=prefix).items()}
