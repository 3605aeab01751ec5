"""Read LoRA files with kohya's or diffusers' keys; both become kohya's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

# Keys that diffusers writes: with peft's names, or with those of releases before it used peft.
DIFFUSERS_KEY = re.compile(
    r"(unet|text_encoder|text_encoder_2)\.(?:text_model\.)?(.+)\."
    r"(lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up)\.weight"
)
KOHYA_PREFIXES = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te_text_model_",
    "text_encoder_2": "lora_te2_text_model_",
}
PEFT_METADATA = "lora_adapter_metadata"
"""Metadata entry of the file with peft's settings as JSON: `unet.lora_alpha` and so on."""


def read_lora(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a LoRA file with diffusers' keys renamed to kohya's, others unchanged.

    Without an alpha in the metadata no `.alpha` is returned; in both formats alpha is then the
    rank.
    """
    with safe_open(file, framework="pt") as header:
        settings = json.loads((header.metadata() or {}).get(PEFT_METADATA, "{}"))
    tensors = {}
    for key, tensor in load_file(file).items():
        match = DIFFUSERS_KEY.fullmatch(key)
        if match is None:
            tensors[key] = tensor
            continue
        part, layer, matrix = match.groups()
        name = KOHYA_PREFIXES[part] + layer.replace(".", "_")
        direction = "down" if matrix.endswith(("A", "down")) else "up"
        tensors[f"{name}.lora_{direction}.weight"] = tensor
        alpha = settings.get(f"{part}.alpha_pattern", {}).get(
            layer, settings.get(f"{part}.lora_alpha")
        )
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors
