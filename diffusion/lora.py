"""Low-rank adapters (Hu et al. 2021, "LoRA") merged into a model's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..errors import MendableError
from .model import Diffusion
from .parts import require_whole


@torch.inference_mode(False)
@torch.no_grad()
def merge_lora(diffusion: Diffusion, file: Path) -> Diffusion:
    """Add a LoRA file to the weights, W + alpha / rank * up @ down, and note it in `loras`.

    Its keys are those of kohya's scripts, which most files have, DreamBoothTrain's included:
    `lora_unet_<layer>.lora_down.weight` [rank,in,...], `.lora_up.weight` [out,rank,...] and
    `.alpha`, with diffusers' names of the layers and `_` for `.`.

    The modules are changed in their place. Raises MendableError, and changes nothing, when the
    file is damaged, of another format, or made for another model.
    """
    require_whole(file)
    tensors = load_file(file)
    layers = _layers(diffusion)
    changes = {}
    for name in sorted({key.partition(".")[0] for key in tensors}):
        down, up = (tensors.get(f"{name}.lora_{half}.weight") for half in ("down", "up"))
        if down is None or up is None:
            raise MendableError(
                f"{file.name} is no LoRA in kohya's format: choose a file that is, or convert it."
            )
        alpha = tensors.get(f"{name}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / len(down)
        change = up.float().flatten(1) @ down.float().flatten(1) * scale
        weight = layers[name].weight if name in layers else None
        if weight is None or change.shape != weight.flatten(1).shape:
            raise MendableError(
                f"{file.name} is made for another model than {diffusion.name}, which has no such "
                f"{name}: choose a LoRA for this model."
            )
        changes[name] = change.reshape(weight.shape)
    for name, change in changes.items():
        weight = layers[name].weight
        weight.copy_(weight.float() + change.to(weight.device))
    return replace(diffusion, loras=(*diffusion.loras, str(file)))


def _layers(diffusion: Diffusion) -> dict[str, torch.nn.Module]:
    """Every layer with a weight, by the name that a LoRA file gives it."""
    prefixes = {"lora_unet_": diffusion.unet, "lora_te_text_model_": diffusion.text_encoder}
    return {
        prefix + name.removeprefix("text_model.").replace(".", "_"): layer
        for prefix, module in prefixes.items()
        for name, layer in module.named_modules()
        if hasattr(layer, "weight")
    }
