"""LoRA files by the names of kohya's scripts, whichever of the two usual names they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

# As diffusers writes them: with peft's names, or with those from before it used peft.
DIFFUSERS = re.compile(
    r"(unet|text_encoder|text_encoder_2)\.(?:text_model\.)?(.+)\."
    r"(lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up)\.weight"
)
PARTS = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te_text_model_",
    "text_encoder_2": "lora_te2_text_model_",
}
SETTINGS = "lora_adapter_metadata"
"""Where the file's head has peft's settings, as JSON: `unet.lora_alpha` and so on."""


def read_lora(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, by kohya's keys where diffusers' are known; others as they are.

    A file of diffusers' that says nothing of alpha means the rank, as a missing `.alpha` does.
    """
    tensors = load_file(file)
    with safe_open(file, framework="pt") as held:
        settings = json.loads((held.metadata() or {}).get(SETTINGS, "{}"))
    named = {}
    for key, tensor in tensors.items():
        found = DIFFUSERS.fullmatch(key)
        if found is None:
            named[key] = tensor
            continue
        part, layer, half = found.groups()
        name = PARTS[part] + layer.replace(".", "_")
        side = "down" if half.endswith(("A", "down")) else "up"
        named[f"{name}.lora_{side}.weight"] = tensor
        alpha = settings.get(f"{part}.alpha_pattern", {}).get(
            layer, settings.get(f"{part}.lora_alpha")
        )
        if alpha is not None:
            named[f"{name}.alpha"] = torch.tensor(float(alpha))
    return named
