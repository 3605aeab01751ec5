"""Write a model file in the kinds of quantized files that ComfyUI opens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FLOAT8 = torch.float8_e4m3fn
KINDS = ("fp8", "scaled fp8", "mixed fp8", "int8")
"""All weights in float8; linear layers in float8 with a scale, in the old way and with the formats
in the metadata, as since ComfyUI 0.3.70; linear layers in int8, since 0.22."""


def write_quantized(source: Path, target: Path, kind: str, inside: str) -> None:
    """Write a diffusion model's file in one of KINDS; `inside` begins the names of its blocks."""
    weights, formats = load_file(source), {}
    if kind == "fp8":
        save_file({name: value.to(FLOAT8) for name, value in weights.items()}, target)
        return
    largest = 127 if kind == "int8" else torch.finfo(FLOAT8).max
    for name, value in list(weights.items()):
        layer = name.removesuffix(".weight")
        if layer == name or value.ndim != 2 or not name.startswith(inside):
            continue
        scale = value.abs().amax().float() / largest
        scaled = value.float() / scale
        weights[name] = scaled.round().to(torch.int8) if kind == "int8" else scaled.to(FLOAT8)
        weights[f"{layer}.{'scale_weight' if kind == 'scaled fp8' else 'weight_scale'}"] = scale
        formats[layer] = {"format": "int8_tensorwise" if kind == "int8" else "float8_e4m3fn"}
    if kind == "scaled fp8":
        weights["scaled_fp8"] = torch.zeros(2, dtype=FLOAT8)
        save_file(weights, target)
        return
    layers = json.dumps({"format_version": "1.0", "layers": formats})
    save_file(weights, target, {"_quantization_metadata": layers})
